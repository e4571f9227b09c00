//! Tags: names for published adapters, and the canaries that a share of the clients gets in their place.

use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::ClientId;
use gossamer_protocol::message::Signed;
use gossamer_protocol::sign::Purpose;
use gossamer_protocol::tag::Tagged;

use super::rounds::json;
use super::{Coordinator, CoordinatorError};
use crate::audit::Event as Told;
use crate::store::{TagRow, Tagging};
use crate::tag::{Adapter, Permille, Tag, TagName};

impl Coordinator {
    /// The tags that this handle sees, by project and name.
    ///
    /// # Errors
    /// The store's.
    pub async fn tags(&self) -> Result<Vec<Tag>, CoordinatorError> {
        Ok(self.0.store.tags(&self.2).await?)
    }

    /// The tag of that name.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownTag`], [`CoordinatorError::SeveralTags`] where this handle sees several projects
    /// that have one, and the store's.
    pub async fn tag(&self, name: &TagName) -> Result<Tag, CoordinatorError> {
        let mut tags = self.tags().await?;
        tags.retain(|tag| tag.tag == *name);
        match (tags.pop(), tags.is_empty()) {
            (Some(tag), true) => Ok(tag),
            (Some(_), false) => Err(CoordinatorError::SeveralTags(name.clone())),
            (None, _) => Err(CoordinatorError::UnknownTag(name.clone())),
        }
    }

    /// Makes or moves a tag of the project whose run that is; a canary goes on.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownRun`], [`CoordinatorError::UnknownRound`] where no record names that adapter, and
    /// the store's.
    pub async fn set_tag(&self, name: &TagName, adapter: Adapter) -> Result<Tag, CoordinatorError> {
        let project = self.find(adapter.run).await?.project.clone();
        let told = Told::TagSet { tag: name.clone(), adapter };
        let seen = self.within(Some(project.clone()));
        let tag = name.clone();
        let row = TagRow { project, tag, adapter, share: None, at: self.now() };
        self.put(row, told).await?;
        seen.tag(name).await
    }

    /// Has a share of the clients that ask for a tag given `canary`, or with none what is its canary already.
    ///
    /// # Errors
    /// As for [`set_tag`](Self::set_tag), of runs of the tag's project; [`CoordinatorError::UnknownTag`], and
    /// [`CoordinatorError::NoCanary`].
    pub async fn set_canary(
        &self,
        name: &TagName,
        canary: Option<Adapter>,
        permille: Permille,
    ) -> Result<Tag, CoordinatorError> {
        let tag = self.tag(name).await?;
        let seen = self.within(Some(tag.project.clone()));
        let adapter = match (canary, tag.canary) {
            (Some(adapter), _) => adapter,
            (None, Some(stands)) => stands.adapter,
            (None, None) => return Err(CoordinatorError::NoCanary(name.clone())),
        };
        seen.find(adapter.run).await?;
        let told = Told::CanarySet { tag: name.clone(), adapter, permille };
        let Tag { project, tag, .. } = tag;
        let row = TagRow { project, tag, adapter, share: Some(permille), at: self.now() };
        self.put(row, told).await?;
        seen.tag(name).await
    }

    async fn put(&self, row: TagRow, told: Told) -> Result<(), CoordinatorError> {
        let note = self.note(told).of(&row.project);
        let (Adapter { run, round }, tag) = (row.adapter, row.tag.clone());
        let put = |this: Self| async move { Ok(this.0.store.put_tag(&row, &note).await?) };
        let done = self.apart(put).await?;
        self.changed();
        match done {
            Tagging::Done => Ok(()),
            Tagging::NoRecord => Err(CoordinatorError::UnknownRound { run, round }),
            Tagging::Gone => Err(CoordinatorError::Gone { run, round }),
            Tagging::NoTag => Err(CoordinatorError::UnknownTag(tag)),
        }
    }

    /// Drops a tag and its canary; the adapter stays.
    ///
    /// # Errors
    /// As for [`tag`](Self::tag).
    pub async fn remove_tag(&self, name: &TagName) -> Result<(), CoordinatorError> {
        let project = self.tag(name).await?.project;
        let note = self.note(Told::TagRemoved { tag: name.clone() }).of(&project);
        let tag = name.clone();
        let drop =
            |this: Self| async move { Ok(this.0.store.drop_tag(&project, &tag, &note).await?) };
        let done = self.apart(drop).await?;
        self.changed();
        if done { Ok(()) } else { Err(CoordinatorError::UnknownTag(name.clone())) }
    }

    /// Ends a tag's canary: with `promote` it is what the tag names from now on.
    ///
    /// # Errors
    /// [`CoordinatorError::NoCanary`], and as for [`tag`](Self::tag).
    pub async fn end_canary(&self, name: &TagName, promote: bool) -> Result<(), CoordinatorError> {
        let tag = self.tag(name).await?;
        let none = || CoordinatorError::NoCanary(name.clone());
        let adapter = tag.canary.ok_or_else(none)?.adapter;
        let called = name.clone();
        let told = match promote {
            true => Told::CanaryPromoted { tag: called, adapter },
            false => Told::CanaryEnded { tag: called, adapter },
        };
        let note = self.note(told).of(&tag.project);
        let at = promote.then_some(note.at);
        let end = move |this: Self| async move {
            Ok(this.0.store.end_canary(&tag, adapter, at, &note).await?)
        };
        let done = self.apart(end).await?;
        self.changed();
        if done { Ok(()) } else { Err(none()) }
    }

    /// What `client` is given where it asks for a tag, signed.
    ///
    /// # Errors
    /// [`CoordinatorError::UnknownTag`] where its project has none of that name, and the store's.
    pub(crate) async fn tagged(
        &self,
        client: ClientId,
        name: &TagName,
    ) -> Result<Signed, CoordinatorError> {
        let seen = self.as_client(client).await?;
        let tag = self.0.store.tag(&seen.home(), name).await?;
        let tag = tag.ok_or_else(|| CoordinatorError::UnknownTag(name.clone()))?;
        let Adapter { run, round } = tag.of(client);
        let record = Digest::of(&seen.record(run, round).await?.bytes);
        let tag = name.clone();
        let tagged = Tagged { tag, client, run, round, record };
        Ok(Signed::new(&self.key(), Purpose::Tag, json(&tagged)))
    }
}
