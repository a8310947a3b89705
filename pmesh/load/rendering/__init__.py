"""How a load report looks: text (`terminal`), one HTML page (`html`, `compare_page`), Markdown and CSV.

What is said in words is in `findings`, what was checked in `checks`, which plots a report has in `figures`; the rest
draws.
"""
