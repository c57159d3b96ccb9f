#compdef deployctl
# zsh completion of deployctl: asks the program itself.
source <(COMPLETE=zsh deployctl)
# From a file in fpath this runs at the first TAB, which is to be answered too.
[ "${funcstack[1]}" != _deployctl ] || _clap_dynamic_completer_deployctl "$@"
