# fish completion of deployctl: asks the program itself.
COMPLETE=fish deployctl | source
