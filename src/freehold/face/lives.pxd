# lives.pxd: a module of several lives: imported again after Py_Finalize and Py_Initialize, in the same process.
#
# Cython finds a module's state by the interpreter's id, and refuses a second module of one id: the main one's is always 0. It
# forgets the first where the garbage collector clears it, but the types that its modules share keep that from happening. So
# the module's dictionary holds something that makes it forgotten when the dictionary is cleared, which always happens.
cdef extern from *:
    """
    static PyObject *__Pyx_State_FindModule(void *);    /* Cython's, declared further down */
    static int __Pyx_State_RemoveModule(void *);
    static void fh_forget_module(PyObject *capsule) {
        (void)capsule;
        if (__Pyx_State_FindModule(NULL)) __Pyx_State_RemoveModule(NULL);
    }
    static PyObject *fh_until_the_end(void) { return PyCapsule_New((void *)fh_forget_module, "freehold.life", fh_forget_module); }
    """
    object until_the_end "fh_until_the_end"()
