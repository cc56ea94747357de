//! Rows of DuckDB back into the domain. Every value is checked: a file may have been written by another version.

use aftertrace_api::convert;
use aftertrace_model::{
    Content, Edge, Event, EventId, Gap, ObjectRef, ObjectVersion, Occurrence, PodRef, Timestamp, Workload,
};
use duckdb::Row;
use duckdb::types::FromSql;
use uuid::Uuid;

use crate::store::table::Type;
use crate::store::{StoreError, Table};

/// The select list of a table, in the order of its declaration and in types that are read back below.
pub(super) fn select(table: Table, alias: &str) -> String {
    let columns: Vec<String> = table
        .columns()
        .iter()
        .map(|c| match c.kind {
            Type::Time => format!("epoch_us({alias}.\"{}\")", c.name),
            Type::Uuid => format!("{alias}.\"{}\"::VARCHAR", c.name),
            _ => format!("{alias}.\"{}\"", c.name),
        })
        .collect();
    columns.join(", ")
}

/// The values of one row, from left to right.
pub(super) struct Cells<'a> {
    row: &'a Row<'a>,
    table: Table,
    next: usize,
}

impl<'a> Cells<'a> {
    pub(super) fn new(row: &'a Row<'a>, table: Table) -> Self {
        Self { row, table, next: 0 }
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> StoreError {
        let column = self.table.columns().get(self.next.saturating_sub(1)).map_or("", |c| c.name);
        StoreError::Row { table: self.table.name(), reason: format!("{column}: {reason}") }
    }

    pub(super) fn take<T: FromSql>(&mut self) -> Result<T, StoreError> {
        self.next += 1;
        self.row.get(self.next - 1).map_err(|error| self.wrong(error))
    }

    fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.take().map(Timestamp::from_micros)
    }

    fn maybe_id(&mut self) -> Result<Option<Uuid>, StoreError> {
        let text: Option<String> = self.take()?;
        text.map(|t| t.parse().map_err(|error| self.wrong(error))).transpose()
    }

    fn id(&mut self) -> Result<Uuid, StoreError> {
        self.maybe_id()?.ok_or_else(|| self.wrong("is missing"))
    }

    fn parse<T>(&mut self) -> Result<T, StoreError>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        let text: String = self.take()?;
        text.parse().map_err(|error: T::Err| self.wrong(error))
    }

    fn named<T>(
        &mut self,
        read: impl FnOnce(&str) -> Result<T, convert::ConvertError>,
    ) -> Result<T, StoreError> {
        let text: String = self.take()?;
        read(&text).map_err(|error| self.wrong(error))
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, StoreError> {
        let text: String = self.take()?;
        serde_json::from_str(&text).map_err(|error| self.wrong(error))
    }

    fn maybe_content(&mut self) -> Result<Option<Content>, StoreError> {
        let text: Option<String> = self.take()?;
        text.map(|t| serde_json::from_str(&t).map_err(|error| self.wrong(error))).transpose()
    }

    /// Reads an event; the row must begin with [`select`] of [`Table::Events`].
    pub(super) fn event(&mut self) -> Result<Event, StoreError> {
        let event_id = EventId(self.id()?);
        let kind = self.parse()?;
        let (at, earliest, latest) = (self.time()?, self.time()?, self.time()?);
        let recorded_at = Some(self.time()?);
        let boot_ns = self.take()?;
        let cluster = self.take()?;
        let node = self.take()?;
        let (namespace, name, uid): (Option<String>, Option<String>, Option<String>) =
            (self.take()?, self.take()?, self.take()?);
        let (container, container_id, restart_count) = (self.take()?, self.take()?, self.take()?);
        let (workload_kind, workload): (Option<String>, Option<String>) = (self.take()?, self.take()?);
        let object = self.object_ref()?;
        Ok(Event {
            event_id,
            kind,
            occurred: Occurrence { at, earliest, latest },
            recorded_at,
            boot_ns,
            cluster,
            node,
            pod: uid.map(|uid| PodRef {
                namespace: namespace.unwrap_or_default(),
                name: name.unwrap_or_default(),
                uid,
            }),
            container,
            container_id,
            restart_count,
            workload: workload_kind.map(|kind| Workload { kind, name: workload.unwrap_or_default() }),
            object,
            content: self.maybe_content()?,
            pid: self.take()?,
            container_init: self.take()?,
            cgroup_id: self.take()?,
            episode_id: self.maybe_id()?.map(EventId),
            reason: self.take()?,
            exit_code: self.take()?,
            source: self.named(convert::source)?,
            hook: self.take()?,
            severity: self.named(convert::severity)?,
            summary: self.take()?,
            attributes: self.json()?,
        })
    }

    fn object_ref(&mut self) -> Result<Option<ObjectRef>, StoreError> {
        let kind: Option<String> = self.take()?;
        let (namespace, name): (Option<String>, Option<String>) = (self.take()?, self.take()?);
        let (uid, resource_version) = (self.take()?, self.take()?);
        Ok(kind.map(|kind| ObjectRef {
            kind,
            namespace: namespace.unwrap_or_default(),
            name: name.unwrap_or_default(),
            uid,
            resource_version,
        }))
    }

    /// Reads an edge; the row must begin with [`select`] of [`Table::Edges`].
    pub(super) fn edge(&mut self) -> Result<Edge, StoreError> {
        Ok(Edge {
            cause_id: EventId(self.id()?),
            effect_id: EventId(self.id()?),
            pattern: self.take()?,
            rule_id: self.take()?,
            grade: self.named(convert::grade)?,
            confidence: self.take()?,
            lag_us: self.take()?,
            evidence: self.json()?,
            cause_kind: self.parse()?,
            cause_occurred_at: self.time()?,
            cause_summary: self.take()?,
            effect_kind: self.parse()?,
            effect_occurred_at: self.time()?,
            recorded_at: Some(self.time()?),
        })
    }

    /// Reads a version; the row must begin with [`select`] of [`Table::Objects`].
    pub(super) fn object(&mut self) -> Result<ObjectVersion, StoreError> {
        Ok(ObjectVersion {
            cluster: self.take()?,
            kind: self.take()?,
            namespace: self.take()?,
            name: self.take()?,
            uid: self.take()?,
            resource_version: self.take()?,
            valid_from: self.time()?,
            deleted: self.take()?,
            state: self.take()?,
            content: self.maybe_content()?,
            changed_paths: self.json()?,
            recorded_at: Some(self.time()?),
        })
    }

    /// Reads a gap; the row must begin with [`select`] of [`Table::Gaps`].
    pub(super) fn gap(&mut self) -> Result<Gap, StoreError> {
        Ok(Gap {
            gap_id: self.id()?,
            cluster: self.take()?,
            node: self.take()?,
            component: self.take()?,
            reason: self.parse()?,
            from: self.time()?,
            to: self.time()?,
            count: self.take()?,
            detail: self.take()?,
            recorded_at: Some(self.time()?),
        })
    }
}
