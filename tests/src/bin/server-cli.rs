//! `gossamer-server`'s command line, so that a test can run it.

fn main() -> std::process::ExitCode {
    gossamer_server::cli::main()
}
