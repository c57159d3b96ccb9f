//! `deployctl-agent`; see `agent::program`.

fn main() -> std::process::ExitCode {
    deployctl::agent::program::main()
}
