//! Where evidence becomes facts: kernel records, pod changes and counters in, spooled items out.
//!
//! One task owns all of the agent's knowledge. Each input is taken to its end before the next: attributed,
//! made an event, joined to what is known, and put into the spool with its edges behind it. What waits for
//! its pod is tried again whenever a pod changes.

mod attributed;
mod claims;
mod processes;
mod reloads;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use aftertrace_api::proto::{self, item};
use aftertrace_model::fact::FactKey;
use aftertrace_model::{Event, EventId, Gap, GapReason, Occurrence, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, trace};

use crate::attribute::cgroup_name::CgroupRoot;
use crate::attribute::containers::Containers;
use crate::attribute::log_links::LogLinks;
use crate::attribute::pending::Pending;
use crate::attribute::pods::Pods;
use crate::clock;
use crate::correlate::Correlator;
use crate::draft::Origin;
use crate::environment::Environments;
use crate::episode::{Episodes, Member, victims::Victims};
use crate::export::GivenKey;
use crate::kernel::{
    Exit, FoundCgroup, LossReason, Losses, OomKill, PodCgroups, Record, Rename, SKIPPED_PERIOD, Stalls,
    Subject, WallClock, WatchedVolumes,
};
use crate::lifetimes::Lifetime;
use crate::losses::{Ledger, loses_opens, of_kernel};
use crate::pressure::Pressure;
use crate::reload::{Read, Reload};
use crate::spool::Writer;
use crate::status::{self, Figures};
use crate::volumes::roots::{Outcome, Roots, Swap};
use crate::volumes::sources::MountedObject;
use crate::volumes::swap::Keys;
use crate::watch::Change;
use crate::watch::facts::Facts;

/// The period of everything that is done by the clock.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two looks at both clocks and at which volumes are gone.
const MINUTE_TICKS: u64 = 60;

/// Ticks between two gaps for hooks that are missing; each gap reaches as far ahead.
const MISSING_TICKS: u64 = 600;

/// How long a shutdown waits for the aggregator to take the rest. What it does not take stays in the spool.
const GOODBYE: Duration = Duration::from_secs(2);

/// A kernel fact that waits for its pod.
#[derive(Debug)]
enum Waiting {
    Kill {
        kill: Box<OomKill>,
        member: Member,
    },
    /// For its kill, too.
    Exit(Exit),
    Lifetime(Lifetime),
    Swap {
        swap: Box<Swap>,
        rename: Box<Rename>,
    },
    Read(Box<Read>),
}

/// What flows in.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// Kernel records; closed at once where there is no kernel evidence.
    pub(crate) records: mpsc::Receiver<Record>,
    /// Pod changes.
    pub(crate) changes: mpsc::Receiver<Change>,
    /// Keys from the aggregator.
    pub(crate) keys: mpsc::Receiver<GivenKey>,
}

/// What the pipeline is made of.
pub(crate) struct Parts {
    pub(crate) origin: Origin,
    pub(crate) cgroup_root: CgroupRoot,
    pub(crate) proc: std::path::PathBuf,
    /// Where the kubelet keeps its containers' logs.
    pub(crate) log_root: std::path::PathBuf,
    /// Where the hierarchy with the memory controller is mounted.
    pub(crate) cgroup_mount: Option<std::path::PathBuf>,
    pub(crate) roots: Roots,
    pub(crate) pressure: Option<Pressure>,
    pub(crate) correlator: Correlator,
    pub(crate) spool: Writer,
    pub(crate) spool_progress: watch::Receiver<crate::spool::Progress>,
    pub(crate) ledger: Arc<Ledger>,
    /// Nothing where there is no kernel evidence.
    pub(crate) kernel: Option<KernelParts>,
    pub(crate) subjects: Vec<proto::Subject>,
    pub(crate) trouble: Vec<String>,
    pub(crate) wanted: watch::Sender<Vec<MountedObject>>,
    pub(crate) status: watch::Sender<proto::AgentStatus>,
    pub(crate) watch_health: watch::Receiver<String>,
    /// After how many microseconds what was not opened is stale.
    pub(crate) stale_after_us: i64,
}

/// The kernel's side beside its records.
pub(crate) struct KernelParts {
    pub(crate) losses: Losses,
    pub(crate) pod_cgroups: PodCgroups,
    /// What there was when the agent began.
    pub(crate) found_cgroups: Vec<FoundCgroup>,
    /// How long cgroups' tasks wait for reclaim.
    pub(crate) stalls: Stalls,
    /// The kernel's table of volumes, until it is given to their registry.
    pub(crate) volumes: Option<WatchedVolumes>,
}

/// The agent's knowledge.
pub(crate) struct Pipeline {
    parts: Parts,
    facts: Facts,
    pods: Pods,
    containers: Containers,
    log_links: LogLinks,
    /// Whether a fact waits for a cgroup that is not known.
    lacks_cgroups: bool,
    environments: Environments,
    reload: Reload,
    watches: watches::Watches,
    /// Whether kernel records wait to be taken in.
    records_wait: bool,
    episodes: Episodes,
    victims: Victims,
    pending: Pending<Waiting>,
    keys: Keys,
    wall: WallClock,
    clock_error_ns: u64,
    ticks: u64,
    /// Renames of volumes that changed no configuration, such as rotated tokens.
    other_swaps: u64,
    /// Starts, ends and signals of pods' sandboxes, which are no containers.
    sandboxes: u64,
}

impl Pipeline {
    /// Nothing is known yet but what the spool held.
    pub(crate) fn new(mut parts: Parts) -> Self {
        let sees_opens = parts.subjects.iter().any(|s| s.name == Subject::Read.as_str() && s.tier != "none");
        let mut containers = Containers::default();
        if let Some(kernel) = &mut parts.kernel {
            containers.found(&kernel.found_cgroups, &parts.cgroup_root);
            if let Some(volumes) = kernel.volumes.take() {
                parts.roots.watch(volumes);
            }
        }
        Self {
            containers,
            log_links: LogLinks::new(&parts.log_root),
            lacks_cgroups: false,
            environments: Environments::default(),
            reload: Reload::new(sees_opens.then(clock::now)),
            watches: watches::Watches::default(),
            records_wait: false,
            facts: Facts::new(parts.origin.clone()),
            parts,
            pods: Pods::default(),
            episodes: Episodes::default(),
            victims: Victims::default(),
            pending: Pending::default(),
            keys: HashMap::new(),
            wall: WallClock::new(),
            clock_error_ns: 0,
            ticks: 0,
            other_swaps: 0,
            sandboxes: 0,
        }
    }

    /// Takes inputs until `stop`; then what has come already, and ends the spool in order.
    pub(crate) async fn run(mut self, mut inputs: Inputs, stop: impl Future<Output = ()>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut has_records = true;
        let mut has_changes = true;
        let mut has_keys = true;
        loop {
            tokio::select! {
                () = &mut stop => break,
                record = inputs.records.recv(), if has_records => match record {
                    Some(record) => self.record(record).await,
                    None => {
                        has_records = false;
                        self.lose_kernel();
                    }
                },
                change = inputs.changes.recv(), if has_changes => match change {
                    Some(change) => self.change(change).await,
                    None => has_changes = false,
                },
                key = inputs.keys.recv(), if has_keys => match key {
                    Some((object, key)) => self.key(object, key).await,
                    None => has_keys = false,
                },
                _ = tick.tick() => {
                    self.records_wait = !inputs.records.is_empty();
                    self.tick().await;
                }
            }
        }
        inputs.records.close();
        inputs.changes.close();
        while let Some(change) = inputs.changes.recv().await {
            self.change(change).await;
        }
        while let Some(record) = inputs.records.recv().await {
            self.record(record).await;
        }
        self.end().await;
    }

    async fn end(mut self) {
        let now = clock::now();
        self.settle_pending(now.plus_micros(crate::attribute::pending::WAIT_US)).await;
        self.settle_environments(now.plus_micros(crate::attribute::pending::WAIT_US)).await;
        self.count_kernel_losses(now, true);
        self.spool_gaps(now, true).await;
        let last = self.parts.spool.next() - 1;
        let is_taken = self.parts.spool_progress.wait_for(|p| p.acked >= last);
        // In time or not: the rest lies in the spool.
        let _ = tokio::time::timeout(GOODBYE, is_taken).await;
        self.parts.spool.close().await;
    }

    async fn record(&mut self, record: Record) {
        match record {
            Record::OomKill(kill) => {
                if let Some(member) = self.episodes.assign(&kill) {
                    self.attribute(Waiting::Kill { kill, member }).await;
                }
            }
            Record::OomDecision(decision) => self.episodes.announce(decision),
            Record::Rename(rename) => self.rename(rename).await,
            Record::FileOpen(open) => self.opened(*open).await,
            Record::Notice(notice) => self.notice(notice).await,
            Record::WatchAdded(added) => self.watch_added(&added),
            Record::CgroupMade(made) => {
                self.containers.made(&made, &self.parts.cgroup_root);
                // Its limit is set by then or by the search after.
                self.parts.pressure.iter_mut().for_each(Pressure::search_soon);
            }
            Record::CgroupGone(gone) => self.containers.gone(&gone),
            Record::Exit(exit) => self.attribute(Waiting::Exit(exit)).await,
            Record::Exec(exec) => self.started(exec).await,
            Record::InitExit(exit) => self.lived(Lifetime::Exited(exit)).await,
            Record::Signal(signal) => self.lived(Lifetime::Signalled(signal)).await,
        }
    }

    async fn rename(&mut self, rename: Box<Rename>) {
        let at = self.at(rename.boot_ns).at;
        match self.parts.roots.judge(&rename, at) {
            Outcome::Mounted(id) => {
                self.reload.mounted(id);
                self.watches.watchers.forget(id);
            }
            Outcome::Known => {}
            Outcome::Rejected(why) => {
                debug!(%why, pid = rename.writer.tgid, "a rename onto ..data is no certain swap");
                let detail = why.to_string();
                self.parts.ledger.add("agent/volumes", GapReason::SwapRejected, at, 1, &detail);
            }
            Outcome::Swapped(swap) => {
                self.swapped(swap, rename).await;
            }
        }
    }

    async fn change(&mut self, change: Change) {
        let now = clock::now();
        match change {
            Change::Apply(pod, seen) => {
                self.pods.apply(&pod, now);
                for event in self.facts.observe(&pod, seen) {
                    self.put(event).await;
                }
                if let Some(uid) = pod.metadata.uid.as_deref() {
                    self.scan_volumes(uid);
                }
            }
            Change::Delete(pod, seen) => {
                self.pods.apply(&pod, now);
                for event in self.facts.observe(&pod, seen) {
                    self.put(event).await;
                }
                if let Some(uid) = pod.metadata.uid.as_deref() {
                    self.pods.delete(uid, now);
                    self.facts.forget(uid);
                    self.parts.roots.forget_pod(uid);
                    self.reload.keep_registered(&self.parts.roots);
                }
            }
            Change::Listed(uids) => {
                self.pods.keep_only(&uids, now);
                self.facts.keep_only(&uids);
            }
        }
        self.settle_environments(now).await;
        self.want_keys();
        self.settle_pending(now).await;
    }

    /// Registers a pod's volumes before they can be swapped.
    fn scan_volumes(&mut self, uid: &str) {
        self.parts.roots.scan_pod(uid, crate::kernel::clock::boot_now_ns());
    }

    /// Asks for the keys of all objects that are mounted or given to an environment, and forgets the others.
    fn want_keys(&mut self) {
        let mounted: BTreeSet<MountedObject> = self
            .pods
            .live()
            .flat_map(|p| {
                let mounted = p.volumes.values().flat_map(|v| &v.objects).map(|s| &s.object);
                mounted.chain(p.env.values().flat_map(|env| &env.objects).map(|i| &i.object))
            })
            .cloned()
            .chain(self.environments.objects(&self.pods))
            .collect();
        self.keys.retain(|object, _| mounted.contains(object));
        let mounted: Vec<MountedObject> = mounted.into_iter().collect();
        self.parts.wanted.send_if_modified(|held| {
            let is_new = *held != mounted;
            *held = mounted;
            is_new
        });
    }

    async fn tick(&mut self) {
        let now = clock::now();
        self.scan_cgroups();
        self.look_for_owners(now).await;
        self.settle_environments(now).await;
        if self.pending.is_due(now) {
            self.settle_pending(now).await;
        }
        if let Some(pressure) = &mut self.parts.pressure {
            for stalls in self.parts.kernel.iter_mut().flat_map(|kernel| kernel.stalls.take()) {
                pressure.note_reclaim(stalls.kernfs_id, stalls.count, stalls.total_ns);
            }
            let events = pressure.look(&self.parts.origin, &self.pods, now);
            for event in events {
                self.put_record(event).await;
            }
        }
        if self.ticks.is_multiple_of(MINUTE_TICKS) {
            self.wall.resample();
            self.clock_error_ns = self.wall.to_wall(crate::kernel::clock::boot_now_ns()).error_ns;
            self.parts.roots.scan(crate::kernel::clock::boot_now_ns());
            self.reload.keep_registered(&self.parts.roots);
            self.watches.watchers.retain(|id| self.parts.roots.get(id).is_some());
            self.pods.bound(now);
        }
        self.count_overdue_exits(now);
        if self.ticks.is_multiple_of(MISSING_TICKS) {
            self.count_missing_hooks(now);
        }
        self.ticks += 1;
        self.count_kernel_losses(now, false);
        self.look_at_watches(now).await;
        self.judge_stale(now).await;
        self.parts.correlator.count_evicted(&self.parts.ledger);
        self.spool_gaps(now, false).await;
        self.parts.spool.tick();
        self.publish_status();
    }

    /// Finds cgroups that the programs have missed: each minute, and until the kubelet's root is there.
    fn scan_cgroups(&mut self) {
        let is_due = self.ticks.is_multiple_of(MINUTE_TICKS);
        if let Some(kernel) = &mut self.parts.kernel
            && (is_due || !kernel.pod_cgroups.is_rooted())
        {
            kernel.found_cgroups = kernel.pod_cgroups.scan();
            self.containers.found(&kernel.found_cgroups, &self.parts.cgroup_root);
        }
    }

    fn count_kernel_losses(&mut self, now: Timestamp, is_last: bool) {
        let ticks_ago = |ticks: u32| {
            now.plus_micros(-i64::try_from(TICK.as_micros()).unwrap_or(0).saturating_mul(ticks.into()))
        };
        let take = if is_last { Losses::take_all } else { Losses::take };
        for loss in self.parts.kernel.iter_mut().flat_map(|kernel| take(&mut kernel.losses)) {
            let is_skipped = matches!(loss.reason, LossReason::Recursion { .. });
            let from = ticks_ago(if is_skipped { SKIPPED_PERIOD } else { 1 });
            if loses_opens(loss.reason) {
                self.reload.missed(now);
            }
            if let Some((component, reason, detail)) = of_kernel(loss.reason) {
                self.parts.ledger.add_between(component, reason, (from, now), loss.count, detail);
            }
        }
    }

    /// Nothing reads the kernel's records any more, though hooks are attached.
    fn lose_kernel(&mut self) {
        if self.parts.kernel.take().is_none() {
            return;
        }
        self.reload.blind();
        for subject in &mut self.parts.subjects {
            "none".clone_into(&mut subject.tier);
            subject.missing.push("the kernel's records are read no more; restart the agent".to_owned());
        }
        self.count_missing_hooks(clock::now());
    }

    /// A subject that is not seen is a gap for as long as it is so.
    fn count_missing_hooks(&self, now: Timestamp) {
        let until = now.plus_micros(i64::try_from(MISSING_TICKS).unwrap_or(0) * 1_000_000);
        for subject in self.parts.subjects.iter().filter(|s| s.tier == "none") {
            let component = format!("kernel/{}", subject.name);
            let detail = subject.missing.join("; ");
            self.parts.ledger.add_between(&component, GapReason::HookMissing, (now, until), 0, &detail);
        }
    }

    async fn spool_gaps(&mut self, now: Timestamp, is_last: bool) {
        for gap in self.parts.ledger.drain(&self.parts.origin, now, is_last) {
            self.put_gap(&gap).await;
        }
    }

    fn publish_status(&self) {
        let progress = self.parts.spool_progress.borrow().clone();
        let figures = Figures {
            spool_items: progress.unacked_items,
            spool_bytes: progress.bytes,
            pods: u32::try_from(self.pods.live().count()).unwrap_or(u32::MAX),
            watch: self.parts.watch_health.borrow().clone(),
            clock_error_ns: self.clock_error_ns,
        };
        let trouble: Vec<String> = self.parts.trouble.iter().cloned().chain(progress.trouble).collect();
        let mut subjects = self.parts.subjects.clone();
        subjects.extend(self.parts.pressure.as_ref().map(Pressure::subject));
        let message = status::message(&self.parts.origin, subjects, &figures, &trouble);
        self.parts.status.send_if_modified(|held| {
            // Memory breathes: alone it is no change.
            let changed = proto::AgentStatus { rss_bytes: held.rss_bytes, ..message.clone() } != *held;
            if changed {
                *held = message;
            }
            changed
        });
    }

    /// A kernel time as an instant with its bound.
    fn at(&mut self, boot_ns: u64) -> Occurrence {
        instant(&mut self.wall, boot_ns)
    }

    /// Spools a fact whose identity is its place in the spool.
    async fn put_record(&mut self, mut event: Event) -> EventId {
        let key =
            FactKey::Record { spool_id: self.parts.spool.spool_id(), sequence: self.parts.spool.next() };
        event.event_id = key.event_id(&self.parts.origin.cluster, event.occurred.at);
        let id = event.event_id;
        self.put(event).await;
        id
    }

    /// Spools a fact, and behind it the edges that follow from it.
    async fn put(&mut self, event: Event) {
        trace!(kind = %event.kind, summary = event.summary, "fact");
        let fact = item::Item::Event(proto::Event::from(&event));
        self.parts.spool.append(proto::Item { item: Some(fact) }).await;
        for edge in self.parts.correlator.observe(event) {
            let edge = item::Item::Edge(proto::Edge::from(&edge));
            self.parts.spool.append(proto::Item { item: Some(edge) }).await;
        }
    }

    async fn put_gap(&mut self, gap: &Gap) {
        let gap = item::Item::Gap(proto::Gap::from(gap));
        self.parts.spool.append(proto::Item { item: Some(gap) }).await;
    }
}

/// A kernel time as an instant with its bound.
fn instant(clock: &mut WallClock, boot_ns: u64) -> Occurrence {
    let wall = clock.to_wall(boot_ns);
    // One more for rounding down to a microsecond.
    let error_us = i64::try_from(wall.error_ns.div_ceil(1_000)).unwrap_or(i64::MAX).saturating_add(1);
    Occurrence::within(Timestamp::from_micros(wall.unix_us()), error_us)
}

#[cfg(test)]
mod tests;
