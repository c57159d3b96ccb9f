//! `deployctl-region`; see `region::program`.

fn main() -> std::process::ExitCode {
    deployctl::region::program::main()
}
