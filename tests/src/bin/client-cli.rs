//! `gossamer-client`'s command line, so that a test can run it.

fn main() -> std::process::ExitCode {
    gossamer_client::cli::main()
}
