//! The `Memory` service: questions in, answers out. It checks the token, picks the function, runs it off the
//! async threads, and turns errors into gRPC's.
//!
//! [`recall`] joins the recent past and segments; each question has its own file.

mod chain;
mod error;
mod history;
mod no_cause;
pub mod recall;
mod standing;
mod state_at;
mod status;
mod timeline;
mod why;

use std::path::PathBuf;
use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_api::proto::memory_server::Memory;
use aftertrace_model::Timestamp;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::error;

use crate::agents::Agents;
use crate::auth::{Auth, Role};
use crate::clock;
use crate::tls::ServerCertificate;
use crate::writer::WriterHandle;
use error::AskError;
use recall::Recall;

/// Questions answered at the same time; more wait. Each takes a thread and memory of the query engine.
const QUESTIONS_MAX: usize = 8;

/// The service.
#[derive(Clone, Debug)]
pub struct MemoryService(Arc<Shared>);

/// What the service knows.
#[derive(Debug)]
pub struct Shared {
    /// Our cluster's name.
    pub cluster: String,
    /// Path of `memory.duckdb`.
    pub catalog: PathBuf,
    /// Checks tokens.
    pub auth: Arc<Auth>,
    /// What is remembered.
    pub recall: Recall,
    /// The agents.
    pub agents: Arc<Agents>,
    /// How the writer is.
    pub writer: WriterHandle,
    /// The server's certificate.
    pub certificate: ServerCertificate,
    /// Whether the cluster is watched at all.
    pub is_watching: bool,
}

impl MemoryService {
    /// The service over what it knows.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    async fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        self.0.auth.admit(metadata, Role::Reader).await.map(|_| ())
    }

    /// Runs a question on a thread for blocking work.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Shared, Timestamp) -> Result<T, AskError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        static PLACES: Semaphore = Semaphore::const_new(QUESTIONS_MAX);
        let place = PLACES.acquire().await.expect("this semaphore is never closed");
        let shared = Arc::clone(&self.0);
        let answered = tokio::task::spawn_blocking(move || question(&shared, clock::now())).await;
        drop(place);
        match answered {
            Ok(Ok(answer)) => Ok(Response::new(answer)),
            Ok(Err(refused)) => {
                if let AskError::Store(error) = &refused {
                    error!(%error, "cannot read the memory");
                }
                Err(refused.into())
            }
            Err(error) => {
                error!(%error, "a question was not answered");
                Err(Status::internal("the question was not answered; the aggregator's log says why"))
            }
        }
    }
}

#[tonic::async_trait]
impl Memory for MemoryService {
    async fn why(&self, request: Request<proto::WhyRequest>) -> Result<Response<proto::WhyResponse>, Status> {
        self.admit(request.metadata()).await?;
        let request = request.into_inner();
        self.ask(move |shared, now| why::answer(&shared.recall, &shared.agents, &request, now)).await
    }

    async fn timeline(
        &self,
        request: Request<proto::TimelineRequest>,
    ) -> Result<Response<proto::TimelineResponse>, Status> {
        self.admit(request.metadata()).await?;
        let request = request.into_inner();
        self.ask(move |shared, now| timeline::answer(&shared.recall, &request, now)).await
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryResponse>, Status> {
        self.admit(request.metadata()).await?;
        let request = request.into_inner();
        self.ask(move |shared, now| history::answer(&shared.recall, &request, now)).await
    }

    async fn state_at(
        &self,
        request: Request<proto::StateAtRequest>,
    ) -> Result<Response<proto::StateAtResponse>, Status> {
        self.admit(request.metadata()).await?;
        let request = request.into_inner();
        self.ask(move |shared, now| state_at::answer(&shared.recall, &request, now)).await
    }

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        self.admit(request.metadata()).await?;
        let shared = &self.0;
        let parts = status::Parts {
            cluster: &shared.cluster,
            catalog: &shared.catalog.display().to_string(),
            recall: &shared.recall,
            agents: &shared.agents,
            writer: &shared.writer.status(),
            certificate: &shared.certificate,
            is_watching: shared.is_watching,
        };
        Ok(Response::new(status::answer(&parts, clock::now())))
    }
}

fn as_of(recall: &Recall) -> proto::AsOf {
    let as_of = recall.as_of();
    proto::AsOf { wal_position: as_of.wal_position, recorded_at_us: as_of.recorded_at.map_or(0, micros) }
}

fn micros(at: Timestamp) -> i64 {
    at.as_micros()
}
