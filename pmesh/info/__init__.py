"""What a report about speed starts with: where figures come from, and what a message costs there, part by part.

    cost = asyncio.run(pmesh.info.measure_message())
    print(cost.whole_ns, cost.parts["dispatch"].value_ns, cost.queue_ratio)

`facts` is what can be read of machine, interpreter and event loop, `cost` is what must be measured, `doubts` says
what speaks against the figures. `text` and `command` are what `pmesh info` adds to that.
"""

from pmesh.info.cost import Figure, MessageCost, measure_message
from pmesh.info.doubts import Doubt, doubts_of
from pmesh.info.facts import Facts, gather_facts

__all__ = ["Doubt", "Facts", "Figure", "MessageCost", "doubts_of", "gather_facts", "measure_message"]
