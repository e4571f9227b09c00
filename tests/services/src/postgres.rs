//! A PostgreSQL cluster in a temporary folder, reached by a socket in it.
//!
//! A shell starts the server and waits for the end of its own input, which comes with the end of the
//! test's process, however that ends; then it stops the server and removes the folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Names the folder with `initdb` and `postgres`.
const FOLDER: &str = "GOSSAMER_POSTGRES";
/// Debian's folders of them, by version.
const DEBIAN: &str = "/usr/lib/postgresql";
const USER: &str = "gossamer";

/// As durable as in production, with room for many tests at once.
///
/// Signals to the whole group, such as Ctrl-C, are the test's; the shell hears of its end.
const SERVE: &str = r#"
trap '' INT TERM HUP
"$0/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=on -c max_connections=400 \
    -c log_min_messages=fatal >>"$1/log" 2>&1 &
server=$!
read -r word
kill -QUIT $server
wait $server
[ "$word" = stop ] || rm -rf "$1"
"#;

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    shell: Mutex<Option<Child>>,
    databases: AtomicU32,
}

/// The one of this test binary.
///
/// # Panics
/// Where PostgreSQL is missing or does not start; the message says what to install.
pub fn postgres() -> &'static Postgres {
    static ONE: OnceLock<Postgres> = OnceLock::new();
    ONE.get_or_init(Postgres::start)
}

impl Postgres {
    /// Starts one.
    ///
    /// # Panics
    /// As for [`postgres`].
    #[must_use]
    pub fn start() -> Self {
        let programs = programs();
        let made = run(unprivileged("mktemp").args(["-d", "-t", "gossamer-postgres-XXXXXXXX"]));
        let folder = PathBuf::from(made.trim());
        let settings = ["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"];
        let data = folder.join("data");
        let initdb = &mut unprivileged(programs.join("initdb"));
        run(initdb.args(settings).arg(format!("--username={USER}")).arg("-D").arg(data));
        let started =
            Self { programs, folder, shell: Mutex::default(), databases: AtomicU32::new(0) };
        started.serve();
        started
    }

    fn serve(&self) {
        let mut shell = unprivileged("sh");
        shell.args(["-c", SERVE]).args([&self.programs, &self.folder]).stdin(Stdio::piped());
        let shell = shell.spawn().expect("a shell");
        *self.shell.lock().unwrap_or_else(PoisonError::into_inner) = Some(shell);
        let began = Instant::now();
        let mut ready = Command::new(self.programs.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(&self.folder);
        while !ready.status().is_ok_and(|status| status.success()) {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "PostgreSQL is not ready: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes an empty database; gives its URL.
    ///
    /// # Panics
    /// Where the server is gone.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut make = Command::new(self.programs.join("createdb"));
        run(make.arg("-h").arg(&self.folder).args(["-U", USER, &name]));
        format!("postgres://{USER}@localhost/{name}?host={}", self.folder.display())
    }

    /// Stops the server at once, as if it had crashed; nothing that it said was committed is lost.
    ///
    /// # Panics
    /// Where it cannot be stopped.
    pub fn stop(&self) {
        let shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut shell) = shell {
            let mut input = shell.stdin.take().expect("a pipe");
            input.write_all(b"stop\n").expect("the shell reads");
            shell.wait().expect("the shell ends");
        }
    }

    /// Starts it again.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn go_on(&self) {
        self.serve();
    }

    /// Does something to a database.
    ///
    /// # Panics
    /// Where the statement fails.
    pub fn execute(&self, url: &str, statement: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        run(psql.arg(url.replace("localhost", "")).args(["-X", "-q", "-A", "-t", "-c", statement]))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut shell) = shell {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }
}

fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return folder.into();
    }
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<PathBuf> = std::fs::read_dir(DEBIAN)
        .map(|folders| folders.filter_map(|folder| Some(folder.ok()?.path())).collect())
        .unwrap_or_default();
    found.sort_by_key(|path| version(path));
    let debian = found.into_iter().rev().map(|path| path.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        debian.chain(std::env::split_paths(&path)).find(|folder| folder.join("initdb").is_file());
    found.unwrap_or_else(|| {
        panic!(
            "PostgreSQL is missing, and the shared store cannot be tested without: install Debian's \
             package postgresql (apt-get install postgresql), or set {FOLDER} to the folder with initdb"
        )
    })
}

/// PostgreSQL does not run as root: there it runs as the user that its package made.
fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let root = run(Command::new("id").arg("-u")).trim() == "0";
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
