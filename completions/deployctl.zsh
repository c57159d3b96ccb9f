#compdef deployctl
# zsh completion of deployctl: asks the program itself.
source <(COMPLETE=zsh deployctl)
