//! Jobs: pods that run to their end, so many at once, so many in all, so many failures at most.
//!
//! What has ended is counted from the pods that are there, so they are kept until the Job goes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::cache::Key;
use crate::context::{Context, ONLY_NAMESPACE, gone_or_replaced, this_one};
use crate::error::{Result, unless_gone};
use crate::ownership;
use crate::queue::{Next, Queue};
use crate::{meta, pod, template};

const NAME: &str = "job-controller";
const WORKERS: usize = 4;
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const SUSPENDED: &str = "Suspended";
const LONGEST_BACK_OFF: Duration = Duration::from_secs(600);
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::<Key>::new();
    let wake = queue.clone();
    context.caches.jobs.on_change(move |old, new| {
        if let Some(job) = new.or(old) {
            wake.add(Key::of(&job.metadata));
        }
    });
    ownership::wake_owners(context, "Job", &queue, |context, pod| {
        let jobs = context.caches.jobs.by(ONLY_NAMESPACE, pod.metadata.namespace.as_deref().unwrap_or(""));
        jobs.iter()
            .filter(|job| meta::selects(&selector(job), &pod.metadata))
            .map(|job| Key::of(&job.metadata))
            .collect()
    });
    let context = context.clone();
    Box::pin(async move {
        tokio::join!(context.caches.jobs.synced(), context.caches.pods.synced());
        queue.run(NAME, WORKERS, |key| step(&context, key)).await;
    })
}

async fn step(context: &Context, key: Key) -> Result<Next> {
    let Some(job) = context.caches.jobs.get(&key) else { return Ok(Next::Change) };
    let Some(spec) = &job.spec else { return Ok(Next::Change) };
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    if let Some(at) = job.status.as_ref().and_then(finished) {
        return expire(context, &job, spec, at).await;
    }
    let pods = ownership::claim(context, &*job, &selector(&job)).await?;
    let mut status = job.status.clone().unwrap_or_default();
    suspend(&mut status, spec.suspend == Some(true));
    let plan = Plan::of(spec, &status, &pods);
    for result in join_all(plan.delete.iter().map(|pod| context.delete_pod(pod, None))).await {
        result?;
    }
    let made = template_pod(&job, spec);
    let results = join_all((0..plan.create).map(|_| context.create_pod(&made))).await;
    plan.count(&mut status, &ownership::owned(context, &*job));
    write_status(context, &job, status).await?;
    for result in results {
        if let Err(error) = &result {
            context.events.warning(NAME, &*job, "FailedCreate", format!("Error creating: {error}"));
        }
        result?;
    }
    Ok(plan.next)
}

/// What is to be done about a Job.
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
    end: Option<(&'static str, &'static str, String)>,
    next: Next,
}

// === impl Plan ===

impl Plan {
    fn of(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>]) -> Self {
        let count = |phase: &str| pods.iter().filter(|pod| pod::phase(pod) == phase).count();
        let (succeeded, failed) = (count("Succeeded"), count("Failed"));
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect();
        let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let limit = usize::try_from(spec.backoff_limit.unwrap_or(6)).unwrap_or(0);
        let suspended = spec.suspend == Some(true);
        let running = status.start_time.as_ref().map(meta::age).unwrap_or_default();
        let deadline = spec.active_deadline_seconds.filter(|_| !suspended);
        let deadline = deadline.map(|seconds| Duration::from_secs(seconds.max(0) as u64));
        let restarts =
            if spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure") {
                active.iter().map(|pod| restarts(pod)).sum()
            } else {
                0
            };
        let done = |end| Self { create: 0, delete: active.clone(), end: Some(end), next: Next::Change };
        // A container that was started again has failed before.
        if failed > limit || restarts > 0 && restarts >= limit {
            return done(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        if deadline.is_some_and(|deadline| running >= deadline) {
            return done(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline".into()));
        }
        let complete = match spec.completions {
            Some(completions) => succeeded >= usize::try_from(completions).unwrap_or(0),
            // Without a number, the first success means that all are finishing.
            None => succeeded > 0 && active.is_empty(),
        };
        if complete {
            return done(("Complete", "CompletionsReached", "Reached expected number of succeeded pods".into()));
        }
        let wanted = match spec.completions {
            _ if suspended => 0,
            Some(completions) => parallelism.min(usize::try_from(completions).unwrap_or(0) - succeeded),
            None if succeeded > 0 => active.len(),
            None => parallelism,
        };
        let mut next = deadline.map_or(Next::Change, |deadline| Next::After(deadline - running));
        let mut create = wanted.saturating_sub(active.len()).min(ownership::MOST_MADE);
        let surplus = active.len().saturating_sub(wanted);
        if create > 0
            && let Some(wait) = back_off(failed, pods)
        {
            create = 0;
            next = Next::After(match next {
                Next::After(deadline) => deadline.min(wait),
                Next::Change => wait,
            });
        }
        let delete = crate::replicaset::ranked(&active).into_iter().take(surplus).collect();
        Self { create, delete, end: None, next }
    }

    fn count(&self, status: &mut JobStatus, pods: &[Arc<Pod>]) {
        let count = |holds: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|pod| holds(pod)).count()).ok();
        let some = |n: Option<i32>| n.filter(|n| *n > 0);
        status.active = some(count(&|pod| pod::is_active(pod)));
        status.ready = count(&|pod| pod::is_active(pod) && pod::is_ready(pod));
        status.terminating = count(&|pod| pod::is_terminating(pod) && !pod::is_terminal(pod));
        status.succeeded = some(count(&|pod| pod::phase(pod) == "Succeeded"));
        status.failed = some(count(&|pod| pod::phase(pod) == "Failed"));
        if let Some((kind, reason, message)) = &self.end {
            let before = if *kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
            let conditions = [before, kind].map(|kind| condition(kind, true, reason, message));
            status.conditions.get_or_insert_default().extend(conditions);
            if *kind == "Complete" {
                status.completion_time = Some(meta::now());
            }
        }
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(meta::now()),
        last_transition_time: Some(meta::now()),
    }
}

/// Notes whether a Job is suspended, and since when it is not: its time begins when it is resumed.
fn suspend(status: &mut JobStatus, suspended: bool) {
    let holds = |condition: &JobCondition| condition.type_ == SUSPENDED && condition.status == "True";
    let was = status.conditions.iter().flatten().any(holds);
    if suspended != was {
        let (reason, message) =
            if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != SUSPENDED);
        conditions.push(condition(SUSPENDED, suspended, reason, message));
    }
    if suspended {
        status.start_time = None;
    } else {
        status.start_time.get_or_insert_with(meta::now);
    }
}

/// How often a pod's containers were started again.
fn restarts(pod: &Pod) -> usize {
    let status = pod.status.iter();
    let statuses = status.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
    statuses.flatten().flatten().filter_map(|container| usize::try_from(container.restart_count).ok()).sum()
}

/// How long to wait after the last failure.
fn back_off(failed: usize, pods: &[Arc<Pod>]) -> Option<Duration> {
    let wait = FIRST_BACK_OFF.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_BACK_OFF);
    let ended = pods.iter().filter(|pod| pod::phase(pod) == "Failed").filter_map(|pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses.iter().filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.clone()).max()
    });
    ended.max().map(|last| wait.saturating_sub(meta::age(&last))).filter(|left| !left.is_zero())
}

/// When a Job ended.
fn finished(status: &JobStatus) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time> {
    let ends = |condition: &&JobCondition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    };
    status.conditions.iter().flatten().find(ends)?.last_transition_time.clone()
}

async fn expire(
    context: &Context,
    job: &Job,
    spec: &JobSpec,
    at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> Result<Next> {
    let Some(seconds) = spec.ttl_seconds_after_finished else { return Ok(Next::Change) };
    let left = Duration::from_secs(seconds.max(0) as u64).saturating_sub(meta::age(&at));
    if !left.is_zero() {
        return Ok(Next::After(left));
    }
    let key = Key::of(&job.metadata);
    let params = DeleteParams {
        propagation_policy: Some(kube::api::PropagationPolicy::Background),
        ..this_one(&job.metadata.uid)
    };
    gone_or_replaced(context.api::<Job>(&key.namespace).delete(&key.name, &params).await)?;
    Ok(Next::Change)
}

/// The labels that make a pod this Job's.
fn selector(job: &Job) -> LabelSelector {
    let given = job.spec.as_ref().and_then(|spec| spec.selector.clone());
    given.unwrap_or_else(|| LabelSelector {
        match_labels: Some([(UID_LABELS[0].to_owned(), job.metadata.uid.clone().unwrap_or_default())].into()),
        match_expressions: None,
    })
}

fn template_pod(job: &Job, spec: &JobSpec) -> Pod {
    let mut pod = template::pod(&spec.template, job);
    let labels = pod.metadata.labels.get_or_insert_default();
    for label in UID_LABELS {
        labels.insert(label.into(), job.metadata.uid.clone().unwrap_or_default());
    }
    for label in NAME_LABELS {
        labels.insert(label.into(), job.metadata.name.clone().unwrap_or_default());
    }
    pod
}

async fn write_status(context: &Context, job: &Job, new: JobStatus) -> Result<()> {
    let old = job.status.clone().unwrap_or_default();
    if old == new {
        return Ok(());
    }
    let mut status = serde_json::to_value(&new).unwrap_or_default();
    for field in ["active", "succeeded", "failed", "startTime"] {
        if status.get(field).is_none() {
            status[field] = serde_json::Value::Null;
        }
    }
    let key = Key::of(&job.metadata);
    let patch = Patch::Merge(json!({"metadata": {"uid": job.metadata.uid}, "status": status}));
    let api = context.api::<Job>(&key.namespace);
    if let Some(job) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
        context.caches.jobs.wrote(job);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(with: serde_json::Value) -> JobSpec {
        let mut spec = json!({"template": {"spec": {"containers": [], "restartPolicy": "OnFailure"}}});
        spec.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn containers_that_are_started_again_count_as_failures() {
        let pod = |restarts: i32| {
            let statuses = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]);
            let status = json!({"phase": "Running", "containerStatuses": statuses});
            Arc::new(serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap())
        };
        for (limit, restarts, ends) in [(2, 0, false), (2, 1, false), (2, 2, true), (0, 0, false), (0, 1, true)] {
            let plan = Plan::of(&spec(json!({"backoffLimit": limit})), &JobStatus::default(), &[pod(restarts)]);
            assert_eq!(plan.end.is_some(), ends, "{restarts} of {limit}");
        }
    }

    #[test]
    fn the_time_of_a_suspended_job_begins_when_it_is_resumed() {
        let said = |status: &JobStatus| status.conditions.as_ref().map(|all| all[0].status.clone());
        let mut status = JobStatus::default();
        suspend(&mut status, false);
        assert!(status.start_time.is_some() && said(&status).is_none());
        suspend(&mut status, true);
        assert!(status.start_time.is_none());
        assert_eq!(said(&status).as_deref(), Some("True"));
        let plan = Plan::of(&spec(json!({"suspend": true, "activeDeadlineSeconds": 0})), &status, &[]);
        assert!(plan.end.is_none() && plan.create == 0 && plan.next == Next::Change);
        suspend(&mut status, false);
        assert!(status.start_time.is_some());
        assert_eq!(said(&status).as_deref(), Some("False"));
    }
}
