//! Projects: what a handle sees, and for whom it acts.

use std::sync::PoisonError;

use gossamer_protocol::ids::ClientId;

use super::{Coordinator, CoordinatorError, Run};
use crate::audit::Event as Told;
use crate::project::{Project, ProjectName, Scope};

impl Coordinator {
    /// A handle that sees `scope` alone: what is another project's is not there for it, and what it makes is
    /// that project's.
    #[must_use]
    pub fn within(&self, scope: Scope) -> Self {
        Self(self.0.clone(), self.1.clone(), scope)
    }

    /// A handle on `project` alone, where one is named; else this one.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownProject`] where this handle sees none of that name, and the store's.
    pub async fn narrowed(&self, project: Option<ProjectName>) -> Result<Self, CoordinatorError> {
        let Some(project) = project else { return Ok(self.clone()) };
        if self.projects().await?.iter().any(|known| known.name == project) {
            Ok(self.within(Some(project)))
        } else {
            Err(CoordinatorError::UnknownProject(project))
        }
    }

    /// A handle that sees what `client` does.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownClient`], [`CoordinatorError::Revoked`], and the store's.
    pub(crate) async fn as_client(&self, client: ClientId) -> Result<Self, CoordinatorError> {
        let home = self.home();
        let enrolled = {
            let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
            fleet.of(&home).binary_search(&client).is_ok()
        };
        // A simulator's clients have no key, so they are in the list alone.
        let project = if enrolled { home } else { self.member(client).await?.project };
        if self.sees(&project) {
            Ok(self.within(Some(project)))
        } else {
            Err(CoordinatorError::UnknownClient(client))
        }
    }

    /// The one project that this handle sees, where it is one.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.2
    }

    /// Whose what it makes is.
    pub(super) fn home(&self) -> ProjectName {
        self.2.clone().unwrap_or_default()
    }

    pub(super) fn sees(&self, project: &ProjectName) -> bool {
        self.2.as_ref().is_none_or(|scope| scope == project)
    }

    pub(super) fn sees_run(&self, run: &Run) -> bool {
        self.sees(&run.project)
    }

    /// Makes a project.
    ///
    /// # Errors
    /// [`CoordinatorError::ProjectExists`], and the store's.
    pub async fn add_project(&self, name: ProjectName) -> Result<Project, CoordinatorError> {
        let project = Project { name, created_ms: self.now().0 };
        let note = self.note(Told::ProjectAdded { name: project.name.clone() }).of(&project.name);
        let row = project.clone();
        let add = |this: Self| async move { Ok(this.0.store.add_project(&row, &note).await?) };
        if self.apart(add).await? {
            self.changed();
            Ok(project)
        } else {
            Err(CoordinatorError::ProjectExists(project.name))
        }
    }

    /// The projects that this handle sees, by name.
    ///
    /// # Errors
    /// The store's.
    pub async fn projects(&self) -> Result<Vec<Project>, CoordinatorError> {
        Ok(self.0.store.projects(&self.2).await?)
    }

    /// Whether a client is one that this handle sees.
    pub(super) fn is_ours(&self, client: &ClientId) -> bool {
        let fleet = self.0.fleet.read().unwrap_or_else(PoisonError::into_inner);
        self.2.is_none() || fleet.members.get(client).is_some_and(|m| self.sees(&m.project))
    }
}
