//! What a scenario must be before anything is trained.

use std::collections::HashSet;

use gossamer_protocol::digest::Digest;
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::{Base, Lora, ManifestError, Method, Scaffold, Selection};

use super::{
    BaseModel, Data, Decay, Format, Heldout, MethodSpec, PartitionRule, Rows, Scenario,
    ScenarioError,
};

/// Most clients of a simulation.
const CLIENTS_MAX: usize = 1 << 24;

impl Scenario {
    /// Checks what only the number of training clients can tell.
    ///
    /// # Errors
    /// [`ScenarioError::Field`] where a round could never fill its cohort.
    pub fn check_against(&self, n_clients: usize) -> Result<(), ScenarioError> {
        for method in &self.methods {
            let Some(Scaffold { clients }) = method.method.scaffold else { continue };
            let why = || format!("the {n_clients} clients that train, got {clients}");
            self.field(clients as usize == n_clients, "method.scaffold.clients", why)?;
        }
        let enrolled = ("cohort.enrolled_min", self.cohort.enrolled_min as usize);
        let asks =
            self.methods.iter().map(|method| ("cohort.ask", self.cohort(method).ask as usize));
        for (field, asked) in asks.chain([enrolled]) {
            let why = || format!("at most the {n_clients} clients that train, got {asked}");
            self.field(asked <= n_clients, field, why)?;
        }
        Ok(())
    }

    /// Checks that `registered` is no fewer than text was dealt to.
    pub(crate) fn check_registered(&self, dealt: usize) -> Result<(), ScenarioError> {
        let registered = self.registered.unwrap_or(dealt);
        let why = || format!("{dealt}, to whom text is dealt, to {CLIENTS_MAX}, got {registered}");
        self.field((dealt..=CLIENTS_MAX).contains(&registered), "registered", why)
    }

    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        // Results are written to `out/NAME`.
        let plain = |c: char| c.is_alphanumeric() || " ._-".contains(c);
        let name = self.name.trim();
        let is_folder = !name.is_empty() && !name.starts_with('.') && name.chars().all(plain);
        let why = || format!("letters, digits and any of \" ._-\", got {:?}", self.name);
        self.field(is_folder, "name", why)?;
        self.field(self.rounds > 0, "rounds", || "at least 1".into())?;
        self.field(!self.seeds.is_empty(), "seeds", || "at least one".into())?;
        let distinct: HashSet<_> = self.seeds.iter().collect();
        self.field(distinct.len() == self.seeds.len(), "seeds", || "each only once".into())?;
        self.field(self.eval.every > 0, "eval.every", || "at least 1".into())?;
        self.field(self.eval.clients != Some(0), "eval.clients", || "at least 1".into())?;
        self.field(self.eval.tokens != Some(0), "eval.tokens", || "at least 1".into())?;
        let Heldout { clients, tail, examples, only } = &self.heldout;
        for (field, share) in [
            ("heldout.clients", *clients),
            ("heldout.tail", *tail),
            ("heldout.examples", *examples),
        ] {
            let why = || format!("a share in [0, 1), got {share}");
            self.field((0.0..1.0).contains(&share), field, why)?;
        }
        let some = clients + tail + examples > 0.0 || !only.is_empty();
        self.field(some, "heldout", || "clients, tail or examples above 0, or only".into())?;
        let whose = !self.eval.by_client || only.is_empty();
        let why = || "false with heldout.only, whose rows are no client's".into();
        self.field(whose, "eval.by_client", why)?;
        if let Some(fleet) = &self.fleet {
            let (field, expected) = match fleet.check() {
                Ok(()) => (None, String::new()),
                Err((field, expected)) => (Some(field), expected),
            };
            self.field(field.is_none(), field.as_deref().unwrap_or("fleet"), || expected)?;
        }
        self.check_task()?;
        if let Data::Rows(rows) = &self.data {
            self.check_rows(rows)?;
        }
        if let Some(clients) = self.partition.rule.clients() {
            let dealt = clients - self.heldout.count(clients);
            self.check_against(self.registered.unwrap_or(dealt))?;
        }
        self.check_methods()
    }

    /// Whether documents have classes.
    pub(crate) fn has_labels(&self) -> bool {
        match &self.data {
            Data::Rows(rows) => rows.label.is_some(),
            Data::Languages(_) => true,
        }
    }

    /// Whether data and evaluation are those of the task.
    fn check_task(&self) -> Result<(), ScenarioError> {
        let rows = matches!(&self.data, Data::Rows(_));
        let why = || "nothing: only rows have keys".into();
        self.field(self.heldout.only.is_empty() || rows, "heldout.only", why)?;
        if self.head.is_none() {
            let why = || "nothing: without a [head] tokens are counted".into();
            return self.field(self.eval.examples.is_none(), "eval.examples", why);
        }
        let why = || "nothing: with a [head] examples are counted".into();
        self.field(self.eval.tokens.is_none(), "eval.tokens", why)?;
        self.field(self.eval.examples != Some(0), "eval.examples", || "at least 1".into())?;
        let why = || "0: half a text still tells its class".into();
        self.field(self.heldout.tail == 0.0, "heldout.tail", why)?;
        self.field(self.has_labels(), "data.label", || {
            "the key of the class: [head] needs it".into()
        })
    }

    /// Whether the rows have what the partition asks for.
    fn check_rows(&self, rows: &Rows) -> Result<(), ScenarioError> {
        let kind = self.partition.rule.kind();
        if self.partition.rule == PartitionRule::Natural {
            let why = || "the key of the client: partition.kind = \"natural\" needs it".into();
            self.field(rows.client.is_some(), "data.client", why)?;
        }
        let labelled = rows.label.is_some() || !self.partition.rule.needs_labels();
        let why = || format!("the key of the class: partition.kind = {kind:?} needs it");
        self.field(labelled, "data.label", why)
    }

    /// Puts every method through the manifest's own rules, so that none is written twice.
    fn check_methods(&self) -> Result<(), ScenarioError> {
        self.field(!self.methods.is_empty(), "method", || "at least one [[method]]".into())?;
        self.field(!self.lora.targets.is_empty(), "lora.targets", || "at least one".into())?;
        let mut names = HashSet::new();
        for method in &self.methods {
            let name = method.name.as_str();
            let plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
            let plain = plain && name.chars().count() <= 40;
            let why = || format!("1 to 40 printable characters, got {name:?}");
            self.field(plain, "method.name", why)?;
            let why = || format!("each only once, and {name:?} is there twice");
            self.field(names.insert(name), "method.name", why)?;

            self.check_method(method)?;
            let linear = BaseLinear { name: "any.w".into(), d_in: 1, d_out: 1 };
            // Of any model, since none is loaded yet.
            let (targets, rank) = (vec!["w".to_owned()], 1);
            let lora = self.lora(method);
            let targets = if lora.targets.is_empty() { Vec::new() } else { targets };
            let any = Lora { freeze_a: lora.freeze_a, ..Lora::new(rank, 1.0, targets) };
            let Ok(layout) = method.layout(&any, &[linear], self.head, 1) else {
                let why = || "2 to 65,536".into();
                return self.field(false, "head.classes", why);
            };
            let base = Base { name: "any".into(), digest: Digest([0; 32]) };
            let refused = self.manifest(method, 0, base, layout).to_bytes();
            if let Err(error) = refused {
                return Err(self.misfit(name, error));
            }
        }
        Ok(())
    }

    /// What only scenarios ask of a method.
    fn check_method(&self, method: &MethodSpec) -> Result<(), ScenarioError> {
        let cohort = self.cohort(method);
        let seeded = cohort.selection == Selection::Seeded || cohort.buffered.is_some();
        let why = || "\"seeded\" with a [fleet], but for buffered rounds".into();
        self.field(seeded || self.fleet.is_none(), "cohort.selection", why)?;
        let timed = cohort.buffered.is_none() || self.fleet.is_some();
        let why = || "absent without a [fleet]: nobody is late where no time passes".into();
        self.field(timed, "cohort.buffered", why)?;
        let some = !self.lora(method).targets.is_empty() || self.head.is_some();
        self.field(some, "method.lora.targets", || "at least one, without a [head]".into())?;
        let alone = !method.lora.whole || !self.lora(method).freeze_a;
        self.field(alone, "method.lora.whole", || "false where A is frozen".into())?;
        let Some(Decay { share, every }) = method.decay else { return Ok(()) };
        let why = || format!("a share in (0, 1), got {share}");
        self.field(0.0 < share && share < 1.0, "method.decay.share", why)?;
        self.field(every > 0, "method.decay.every", || "at least 1".into())?;
        let Method { download, upload, .. } = &method.method;
        let free = download.stages.is_empty() && upload.stages.is_empty();
        self.field(free, "method.decay", || "nothing where stages are given".into())?;
        // What is left shrinks with each time; a density of 0 would be none.
        let left = share.powf((self.rounds / every) as f64);
        let why = || "densities that stay above 1e-6 to the last round".into();
        self.field(left > 1e-6, "method.decay", why)
    }

    fn misfit(&self, method: &str, error: ManifestError) -> ScenarioError {
        let (field, why) = match error {
            ManifestError::Field { field, why } => (field.to_owned(), why.to_owned()),
            other => ("manifest".to_owned(), other.to_string()),
        };
        let expected = format!("{why} (method {method:?})");
        ScenarioError::Field { file: self.file.clone(), field, expected }
    }

    /// Checks that the files it names are there.
    pub(crate) fn check_paths(&self) -> Result<(), ScenarioError> {
        if let BaseModel::Folder(path) = &self.base {
            let why = || {
                format!("\"tiny\" or a folder with a config.json, found none at {}", path.display())
            };
            self.field(path.join("config.json").is_file(), "base", why)?;
        }
        if let Data::Rows(rows) = &self.data {
            let (there, what) = match rows.format() {
                Format::Folder => (
                    rows.path.is_dir(),
                    "a .jsonl, .csv or .tsv (or .gz of one), a .parquet, or a folder of .txt, found no folder",
                ),
                _ => (rows.path.is_file(), "a file, found none"),
            };
            let why = || format!("{what} at {}", rows.path.display());
            self.field(there, "data.path", why)?;
        }
        Ok(())
    }

    fn field(
        &self,
        ok: bool,
        field: &str,
        expected: impl FnOnce() -> String,
    ) -> Result<(), ScenarioError> {
        if ok {
            return Ok(());
        }
        Err(ScenarioError::Field {
            file: self.file.clone(),
            field: field.into(),
            expected: expected(),
        })
    }
}
