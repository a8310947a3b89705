# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic, auto_pickle=False
# cython: freethreading_compatible=True
"""The hot path of pmesh, one extension: messages, mailboxes, dispatch, latency recording.

Here live only the parts that every message passes through. What an agent is to its user, names, the
life of an agent from start to stop and everything that happens once per agent rather than once per
message are Python, in the modules above. The textual parts, in reading order:

- `_core_recorder.pxi`  LatencyRecorder: a histogram that is always on
- `_core_mailbox.pxi`   Message, Counters, Mailbox: the queue, its policies and its account
- `_core_adaptive.pxi`  Throttle: how much may wait in a mailbox that bounds its queue time
- `_core_slot.pxi`      HandlerTable, Scope, Slot, Cell: what a handler runs in
- `_core_dispatch.pxi`  Dispatcher: the run queue of one event loop, wake-ups, timers, the window
- `_core_timers.pxi`    Timer, Timers: messages that an agent sends itself, later
- `_core_kit.pxi`       Kit: timers, stash and behaviour of one instance of an agent
- `_core_ref.pxi`       AgentRef, Send, Ask: what senders hold
- `_core_stuck.pxi`     InHand; asks that would wait on themselves, and handlers that wait for too long

Threads: a mailbox is locked by its own critical section, which is free of cost where there is a GIL.
Offering a message is safe from any thread; everything else happens in the coordinator's loop.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uint8_t

import asyncio
import collections
import collections.abc
import contextvars
import gc
import inspect
import sys
import types
import warnings

from pmesh.errors import (
    AgentStopped,
    AskCycle,
    AskTimeout,
    HandlerCancelled,
    InvalidArgument,
    InvalidStash,
    InvalidType,
    MailboxFull,
    StashFull,
    UnhandledMessage,
    UsedAfterFork,
    WrongLoop,
)

cdef extern from *:
    """
    #include <time.h>
    #ifdef Py_GIL_DISABLED
    #define PMESH_GIL 0
    #else
    #define PMESH_GIL 1
    #endif

    #if PMESH_DEBUG
    #undef NDEBUG
    #include <assert.h>
    #define PMESH_CHECK(condition) assert(condition)
    #else
    #define PMESH_CHECK(condition) ((void)0)
    #endif

    /* ThreadSanitizer knows nothing of the interpreter's locks. It is told when a critical section is entered and left,
       and not when the interpreter suspends one in between: what is changed there then shows as a race. */
    #if defined(__SANITIZE_THREAD__) && defined(Py_GIL_DISABLED)
    void __tsan_acquire(void *);
    void __tsan_release(void *);

    static inline void pmesh_section_begin(PyCriticalSection *section, PyObject *object) {
        PyCriticalSection_Begin(section, object);
        __tsan_acquire(&object->ob_mutex);
    }

    static inline void pmesh_section_end(PyCriticalSection *section) {
        if (section->_cs_mutex != NULL) __tsan_release(section->_cs_mutex);
        PyCriticalSection_End(section);
    }

    static inline void pmesh_sections_begin(PyCriticalSection2 *sections, PyObject *one, PyObject *other) {
        PyCriticalSection2_Begin(sections, one, other);
        __tsan_acquire(&one->ob_mutex);
        __tsan_acquire(&other->ob_mutex);
    }

    static inline void pmesh_sections_end(PyCriticalSection2 *sections) {
        if (sections->_cs_base._cs_mutex != NULL) __tsan_release(sections->_cs_base._cs_mutex);
        if (sections->_cs_mutex2 != NULL) __tsan_release(sections->_cs_mutex2);
        PyCriticalSection2_End(sections);
    }
    #define PyCriticalSection2_Begin(sections, one, other) pmesh_sections_begin(sections, one, other)
    #define PyCriticalSection2_End(sections) pmesh_sections_end(sections)
    #define PyCriticalSection_Begin(section, object) pmesh_section_begin(section, object)
    #define PyCriticalSection_End(section) pmesh_section_end(section)
    #endif

    /* A flag that other threads look at without a lock: they see it as it was before a change or after it. */
    #define pmesh_load(flag) __atomic_load_n(&(flag), __ATOMIC_RELAXED)
    #define pmesh_store(flag, value) __atomic_store_n(&(flag), (value), __ATOMIC_RELAXED)

    static inline int64_t pmesh_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
    }

    /* PyIter_Send with the result as an ordinary new reference: *status is 1 while the iterator
       yields and 0 when it has returned; NULL with an exception set when it raised. */
    static inline PyObject *pmesh_iter_send(PyObject *iterator, PyObject *value, int *status) {
        PyObject *result = NULL;
        PySendResult outcome = PyIter_Send(iterator, value, &result);
        *status = (outcome == PYGEN_NEXT);
        return outcome == PYGEN_ERROR ? NULL : result;
    }

    /* The end of an iterator with a value. Cython's own `raise StopIteration(value)` adds a traceback,
       which costs more than all the rest of an ask. */
    static void pmesh_set_stop(PyObject *value) {
        if (value == Py_None) return;  /* NULL without an exception says the same */
        if (PyTuple_Check(value) || PyExceptionInstance_Check(value)) {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
            if (stop == NULL) return;
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        } else {
            PyErr_SetObject(PyExc_StopIteration, value);
        }
    }

    /* Without asking the type's own attributes, which a metaclass may have made raise. */
    static inline const char *pmesh_type_name(PyObject *value) {
        const char *name = Py_TYPE(value)->tp_name;
        const char *dot = strrchr(name, '.');
        return dot == NULL ? name : dot + 1;
    }

    static void pmesh_set_iternext(PyObject *type, iternextfunc next) {
        ((PyTypeObject *)type)->tp_iternext = next;
    }

    /* Instances of `type` are called through the function that they hold at `offset`. */
    static void pmesh_set_vectorcall(PyObject *type, Py_ssize_t offset) {
        ((PyTypeObject *)type)->tp_vectorcall_offset = offset;
        ((PyTypeObject *)type)->tp_call = PyVectorcall_Call;
        ((PyTypeObject *)type)->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified((PyTypeObject *)type);
    }

    static inline PyObject *pmesh_var_get(PyObject *var) {
        PyObject *value = NULL;
        if (PyContextVar_Get(var, Py_None, &value) < 0) return NULL;
        return value;
    }
    """
    const int PMESH_DEBUG
    const int PMESH_TRACE
    const char *PMESH_SANITIZE
    const int PMESH_GIL
    const unsigned long CYTHON_HEX_VERSION
    void PMESH_CHECK(bint condition) noexcept   # aborts in the debug build, is not there in others
    bint pmesh_load(bint flag) noexcept
    void pmesh_store(bint flag, bint value) noexcept
    int64_t pmesh_monotonic_ns() noexcept nogil
    object pmesh_iter_send(object iterator, object value, int *status)
    object pmesh_var_get(object var)
    const char *pmesh_type_name(object value) noexcept
    void pmesh_set_stop(object value) noexcept
    ctypedef PyObject *(*iternextfunc)(PyObject *) except? NULL
    void pmesh_set_iternext(object type, iternextfunc next) noexcept
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *) except NULL
    void pmesh_set_vectorcall(object type, Py_ssize_t offset) noexcept

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object o) noexcept
    object PyObject_GenericGetAttr(object o, object name)
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept
    unsigned long PyThread_get_thread_ident() noexcept
    object PyContextVar_Set(object var, object value)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    bint PyCoro_CheckExact(object o) noexcept
    bint PyGen_CheckExact(object o) noexcept
    bint PyObject_CheckBuffer(object o) noexcept

# Units: one second, in the nanoseconds that every time in this extension is kept in.
cdef enum:
    SECOND_NS = 1_000_000_000

BUILD_INFO = {
    "debug": bool(PMESH_DEBUG),
    "trace": bool(PMESH_TRACE),
    "sanitize": PMESH_SANITIZE.decode("ascii"),    # the compiler's sanitizers, such as "address,undefined"
    "gil": bool(PMESH_GIL),
    "cython": "%x.%x.%x" % (CYTHON_HEX_VERSION >> 24, CYTHON_HEX_VERSION >> 16 & 0xFF, CYTHON_HEX_VERSION >> 8 & 0xFF),
}


def type_name(value):
    """Name of the type of `value`, for messages; of any value, also one whose class cannot be asked."""
    return pmesh_type_name(value).decode("utf-8", "replace")


# Holds the Scope of the handler that code runs in, and that of the one which started it elsewhere.
SCOPE = contextvars.ContextVar("pmesh.scope", default=None)

include "_core_recorder.pxi"
include "_core_mailbox.pxi"
include "_core_adaptive.pxi"
include "_core_slot.pxi"
include "_core_dispatch.pxi"
include "_core_timers.pxi"
include "_core_kit.pxi"
include "_core_ref.pxi"
include "_core_stuck.pxi"


def live_objects():
    """How many objects of each class of this extension are alive, by name; for leak tests, and slow."""
    cdef dict counts = {}
    for kind in (
        AgentRef, Ask, Cell, Dispatcher, HandlerTable, Kit, Mailbox, Message, Meter, Scope, Send, Slot, Timer, Timers,
        Waiter,
    ):
        counts[kind] = 0
    for thing in gc.get_objects():
        kind = type(thing)
        if kind in counts:
            counts[kind] += 1
    return {kind.__name__: count for kind, count in counts.items()}
