/** Which files a process runs, as a list in JSON. */
export const filesVariable = 'OUTPORT_TEST_FILES'
