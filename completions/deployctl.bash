# bash completion of deployctl: asks the program itself.
source <(COMPLETE=bash deployctl)
