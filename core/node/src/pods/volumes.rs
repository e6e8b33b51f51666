//! A pod's volumes as files below its directory, and where they are mounted.
//!
//! What a volume shows is fetched when the pod starts, and again from time to time: tokens before they expire, the rest each minute.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretProjection,
    ServiceAccount, Volume,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use switchyard_pause::protocol::Mount;

use crate::env::{self, Sources};

/// Where programs look for their service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the volume for it, where the API server has not put one into the pod.
const ACCOUNT_VOLUME: &str = "kube-api-access";
/// Longest and default life of a token that nobody asked to be shorter, in seconds.
const TOKEN_SECONDS: i64 = 3607;

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume}: {kind} {name:?} not found")]
    NotFound { volume: String, kind: &'static str, name: String },
    #[error("volume {volume}: {kind} {name:?} has no key {key:?}")]
    NoKey { volume: String, kind: &'static str, name: String, key: String },
    #[error("volume {volume}: {problem}")]
    Bad { volume: String, problem: String },
    #[error("volume {volume}: {source}")]
    Io { volume: String, source: io::Error },
    #[error("volume {volume}: {source}")]
    Api { volume: String, source: Box<kube::Error> },
}

/// The volumes of one pod, made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    sources: BTreeMap<String, PathBuf>,
    /// Those that show what the API server keeps; nobody writes into them.
    shown: BTreeSet<String>,
    /// The shortest time until a token has to be renewed.
    pub(crate) renew_after: Option<Duration>,
    /// What some volume shows can change.
    pub(crate) can_change: bool,
}

/// What a volume shows of the API server's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A token among other things.
    Token,
    /// Only what is as long as nobody changes it.
    Content,
}

struct Maker<'a> {
    client: &'a Client,
    pod: &'a Pod,
    namespace: String,
    dir: PathBuf,
    fields: &'a Sources,
    volumes: Volumes,
}

/// Files of a volume: relative path, content, mode.
type Files = Vec<(String, Vec<u8>, u32)>;

// === impl Volumes ===

/// Makes all volumes of a pod below `dir`.
pub(crate) async fn make(client: &Client, pod: &Pod, dir: &Path, fields: &Sources) -> Result<Volumes, VolumeError> {
    let mut maker = Maker::new(client, pod, dir, fields);
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        maker.make(volume).await?;
    }
    if wants_account(pod) {
        maker.account().await?;
    }
    Ok(maker.volumes)
}

/// Renews volumes of this kind, each on its own, as what one shows says nothing of another. Gives the time until the next token has
/// to be renewed, and the first error; what it is about stays as it was.
pub(crate) async fn renew(
    client: &Client,
    pod: &Pod,
    dir: &Path,
    fields: &Sources,
    of: Kept,
) -> (Option<Duration>, Result<(), VolumeError>) {
    let mut maker = Maker::new(client, pod, dir, fields);
    let mut outcome = Ok(());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes.filter(|volume| kept(volume) == Some(of)) {
        let made = maker.make(volume).await;
        outcome = outcome.and(made);
    }
    if of == Kept::Token && wants_account(pod) {
        let made = maker.account().await;
        outcome = outcome.and(made);
    }
    (maker.volumes.renew_after, outcome)
}

/// What a volume shows of the API server's, if it does.
fn kept(volume: &Volume) -> Option<Kept> {
    let shows = volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some();
    let projected = volume.projected.as_ref();
    let mut sources = projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    if sources.any(|source| source.service_account_token.is_some()) {
        return Some(Kept::Token);
    }
    (shows || projected.is_some()).then_some(Kept::Content)
}

impl Volumes {
    /// What is mounted for a container. `message` is the file behind its terminationMessagePath.
    pub(crate) fn mounts(&self, pod: &Pod, container: &Container, message: &Path) -> Result<Vec<Mount>, VolumeError> {
        let mut mounts = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let bad = |problem: String| VolumeError::Bad { volume: wanted.name.clone(), problem };
            let source = self.sources.get(&wanted.name).ok_or_else(|| bad("is not a volume of the pod".into()))?;
            let within = match wanted.sub_path.as_deref().filter(|path| !path.is_empty()) {
                None => None,
                Some(path) => Some(
                    inner_path(path)
                        .ok_or_else(|| bad(format!("subPath {path:?}: must be relative and without '..'")))?,
                ),
            };
            let read_only = wanted.read_only == Some(true) || self.shown.contains(&wanted.name);
            mounts.push(Mount {
                source: source.clone(),
                within: within.map(Path::to_owned),
                target: wanted.mount_path.clone().into(),
                read_only,
            });
        }
        if let Some(source) =
            self.sources.get(ACCOUNT_VOLUME).filter(|_| wants_account(pod) && !mounts_account(container))
        {
            mounts.push(Mount { source: source.clone(), within: None, target: ACCOUNT.into(), read_only: true });
        }
        let target = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        mounts.push(Mount { source: message.to_owned(), within: None, target: target.into(), read_only: false });
        Ok(mounts)
    }
}

/// Whether the agent has to provide the service account's directory, because no volume of the pod does.
fn wants_account(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.automount_service_account_token != Some(false) && !spec.containers.iter().all(mounts_account)
}

fn mounts_account(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| Path::new(&mount.mount_path) == Path::new(ACCOUNT))
}

// === impl Maker ===

impl<'a> Maker<'a> {
    fn new(client: &'a Client, pod: &'a Pod, dir: &Path, fields: &'a Sources) -> Self {
        let namespace = pod.namespace().unwrap_or_default();
        Self { client, pod, namespace, dir: dir.to_owned(), fields, volumes: Volumes::default() }
    }

    async fn make(&mut self, volume: &Volume) -> Result<(), VolumeError> {
        let name = volume.name.as_str();
        if inner_path(name).is_none_or(|path| path.components().count() != 1) {
            return Err(bad(name, "its name must be a DNS label"));
        }
        if let Some(host) = &volume.host_path {
            return self.host_path(name, Path::new(&host.path), host.type_.as_deref().unwrap_or_default());
        }
        let mode = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
        if volume.empty_dir.is_some() {
            return self.empty(name).map(drop);
        }
        let mut files = Files::new();
        if let Some(map) = &volume.config_map {
            let projection =
                ConfigMapProjection { name: map.name.clone(), items: map.items.clone(), optional: map.optional };
            self.config_map(name, &projection, mode(map.default_mode), &mut files).await?;
        } else if let Some(secret) = &volume.secret {
            let named = secret.secret_name.clone().unwrap_or_default();
            let projection = SecretProjection { name: named, items: secret.items.clone(), optional: secret.optional };
            self.secret(name, &projection, mode(secret.default_mode), &mut files).await?;
        } else if let Some(downward) = &volume.downward_api {
            self.downward(name, downward.items.as_deref(), mode(downward.default_mode), &mut files)?;
        } else if let Some(projected) = &volume.projected {
            for source in projected.sources.iter().flatten() {
                let mode = mode(projected.default_mode);
                if let Some(map) = &source.config_map {
                    self.config_map(name, map, mode, &mut files).await?;
                }
                if let Some(secret) = &source.secret {
                    self.secret(name, secret, mode, &mut files).await?;
                }
                if let Some(downward) = &source.downward_api {
                    self.downward(name, downward.items.as_deref(), mode, &mut files)?;
                }
                if let Some(token) = &source.service_account_token {
                    let audience = token.audience.as_deref();
                    let text = self.token(name, audience, token.expiration_seconds).await?;
                    files.push((token.path.clone(), text, mode));
                }
            }
        } else {
            let known = "emptyDir, configMap, secret, projected, downwardAPI, hostPath";
            return Err(bad(name, &format!("of a type that is not supported: use one of {known}")));
        }
        self.volumes.can_change |= kept(volume) == Some(Kept::Content);
        self.show(name, files)
    }

    /// The directory that the API server's admission usually puts into a pod.
    async fn account(&mut self) -> Result<(), VolumeError> {
        let mut files = Files::new();
        let account = self.account_name();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        if let Some(account) = accounts.get_opt(&account).await.map_err(|error| api(ACCOUNT_VOLUME, error))?
            && account.automount_service_account_token == Some(false)
            && self.pod.spec.as_ref().is_none_or(|spec| spec.automount_service_account_token.is_none())
        {
            return Ok(());
        }
        files.push(("token".into(), self.token(ACCOUNT_VOLUME, None, None).await?, 0o644));
        files.push(("namespace".into(), self.namespace.clone().into_bytes(), 0o644));
        let items = None;
        let root = ConfigMapProjection { name: "kube-root-ca.crt".into(), items, optional: Some(true) };
        self.config_map(ACCOUNT_VOLUME, &root, 0o644, &mut files).await?;
        self.show(ACCOUNT_VOLUME, files)
    }

    fn account_name(&self) -> String {
        let name = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
    }

    fn host_path(&mut self, name: &str, path: &Path, kind: &str) -> Result<(), VolumeError> {
        let here = std::fs::metadata(path);
        let fits = match (kind, &here) {
            ("" | "DirectoryOrCreate" | "FileOrCreate", Ok(_)) => true,
            ("Directory", Ok(meta)) => meta.is_dir(),
            ("File", Ok(meta)) => meta.is_file(),
            ("DirectoryOrCreate", Err(_)) => {
                std::fs::create_dir_all(path).map_err(|source| VolumeError::Io { volume: name.into(), source })?;
                true
            }
            _ => false,
        };
        if !fits {
            return Err(bad(name, &format!("hostPath {} is missing, or not of type {kind:?}", path.display())));
        }
        self.volumes.sources.insert(name.to_owned(), path.to_owned());
        Ok(())
    }

    async fn config_map(
        &self,
        volume: &str,
        wanted: &ConfigMapProjection,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get_opt(&wanted.name).await.map_err(|error| api(volume, error))?;
        let data = map.map(|map| {
            let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            let binary = map.binary_data.into_iter().flatten().map(|(key, ByteString(value))| (key, value));
            text.chain(binary).collect()
        });
        let found = Found { volume, kind: "configmap", name: &wanted.name, optional: wanted.optional == Some(true) };
        found.pick(data, wanted.items.as_deref(), mode, files)
    }

    async fn secret(
        &self,
        volume: &str,
        wanted: &SecretProjection,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get_opt(&wanted.name).await.map_err(|error| api(volume, error))?;
        let data = secret
            .map(|secret| secret.data.into_iter().flatten().map(|(key, ByteString(value))| (key, value)).collect());
        let found = Found { volume, kind: "secret", name: &wanted.name, optional: wanted.optional == Some(true) };
        found.pick(data, wanted.items.as_deref(), mode, files)
    }

    fn downward(
        &self,
        volume: &str,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        for item in items.into_iter().flatten() {
            let text = if let Some(field) = &item.field_ref {
                env::field(self.pod, &field.field_path, self.fields)
            } else if let Some(resource) = &item.resource_field_ref {
                let mut containers = self.pod.spec.iter().flat_map(|spec| &spec.containers);
                let container = containers.find(|one| Some(&one.name) == resource.container_name.as_ref());
                container.and_then(|container| env::resource(container, resource))
            } else {
                None
            };
            let text = text.ok_or_else(|| bad(volume, &format!("item {:?}: refers to no known field", item.path)))?;
            let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
            files.push((item.path.clone(), text.into_bytes(), mode));
        }
        Ok(())
    }

    async fn token(
        &mut self,
        volume: &str,
        audience: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<Vec<u8>, VolumeError> {
        let seconds = seconds.unwrap_or(TOKEN_SECONDS).max(600);
        let audiences: Vec<_> = audience.into_iter().filter(|audience| !audience.is_empty()).collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": self.pod.name_any(), "uid": self.pod.uid()},
            },
        });
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let account = self.account_name();
        let answer: TokenRequest = accounts
            .create_subresource("token", &account, &PostParams::default(), &request)
            .await
            .map_err(|error| match error {
                kube::Error::Api(status) if status.code == 404 => {
                    VolumeError::NotFound { volume: volume.into(), kind: "serviceaccount", name: account.clone() }
                }
                error => api(volume, error),
            })?;
        // Renewed when four fifths of its life are over, as the kubelet does.
        let renew = Duration::from_secs(seconds.unsigned_abs() * 4 / 5);
        self.volumes.renew_after = Some(self.volumes.renew_after.map_or(renew, |earlier| earlier.min(renew)));
        Ok(answer.status.and_then(|status| status.token).unwrap_or_default().into_bytes())
    }

    /// A directory, with what is in it.
    fn empty(&mut self, name: &str) -> Result<PathBuf, VolumeError> {
        let dir = self.dir.join("volumes").join(name);
        std::fs::create_dir_all(&dir).map_err(|source| VolumeError::Io { volume: name.to_owned(), source })?;
        self.volumes.sources.insert(name.to_owned(), dir.clone());
        Ok(dir)
    }

    /// A directory with these files, and none that it showed before.
    fn show(&mut self, name: &str, files: Files) -> Result<(), VolumeError> {
        let dir = self.empty(name)?;
        let wrap = |source| VolumeError::Io { volume: name.to_owned(), source };
        let mut wanted = BTreeSet::new();
        for (path, content, mode) in files {
            let inner = inner_path(&path)
                .ok_or_else(|| bad(name, &format!("path {path:?}: must be relative and without '..'")))?;
            let path = dir.join(inner);
            replace(&path, &content, mode).map_err(wrap)?;
            wanted.insert(path);
        }
        remove_others(&dir, &wanted).map_err(wrap)?;
        self.volumes.shown.insert(name.to_owned());
        Ok(())
    }
}

/// An object that was looked for.
struct Found<'a> {
    volume: &'a str,
    kind: &'static str,
    name: &'a str,
    optional: bool,
}

impl Found<'_> {
    /// Its keys as files: all of them, or those asked for.
    fn pick(
        &self,
        data: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        default_mode: u32,
        files: &mut Files,
    ) -> Result<(), VolumeError> {
        let (volume, kind, name) = (self.volume.to_owned(), self.kind, self.name.to_owned());
        let Some(mut data) = data else {
            return if self.optional { Ok(()) } else { Err(VolumeError::NotFound { volume, kind, name }) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            files.extend(data.into_iter().map(|(key, value)| (key, value, default_mode)));
            return Ok(());
        };
        for item in items {
            let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default_mode);
            match data.remove(&item.key) {
                Some(value) => files.push((item.path.clone(), value, mode)),
                None if self.optional => {}
                None => return Err(VolumeError::NoKey { volume, kind, name, key: item.key.clone() }),
            }
        }
        Ok(())
    }
}

/// Replaces a file in one step, so that nobody reads half a token.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // New, so that it is no link that somebody has put there.
    let mut file = File::options().write(true).create_new(true).open(&temporary)?;
    file.write_all(content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
    std::fs::rename(&temporary, path)
}

/// Takes all other files away.
fn remove_others(dir: &Path, wanted: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn inner_path(path: &str) -> Option<&Path> {
    let path = Path::new(path);
    let inner = path.components().all(|part| matches!(part, Component::Normal(_)));
    (inner && path.components().next().is_some()).then_some(path)
}

fn bad(volume: &str, problem: &str) -> VolumeError {
    VolumeError::Bad { volume: volume.to_owned(), problem: problem.to_owned() }
}

fn api(volume: &str, source: kube::Error) -> VolumeError {
    VolumeError::Api { volume: volume.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, Response};
    use tower::service_fn;

    use super::*;

    /// An API server that has these objects, by the last part of their path, and gives tokens away.
    fn server(objects: &[(&str, serde_json::Value)]) -> Client {
        let objects: BTreeMap<String, serde_json::Value> =
            objects.iter().map(|(name, object)| ((*name).to_owned(), object.clone())).collect();
        let answer = move |request: Request<_>| {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let missing =
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"});
            let code = if objects.contains_key(&name) { 200 } else { 404 };
            let body = objects.get(&name).unwrap_or(&missing).to_string();
            std::future::ready(Ok::<_, io::Error>(Response::builder().status(code).body(Body::from(body)).unwrap()))
        };
        Client::new(service_fn(answer), "default")
    }

    fn token(token: &str) -> (&'static str, serde_json::Value) {
        let status = json!({"token": token, "expirationTimestamp": "2030-01-01T00:00:00Z"});
        ("token", json!({"metadata": {}, "spec": {"audiences": []}, "status": status}))
    }

    fn map(data: serde_json::Value) -> (&'static str, serde_json::Value) {
        ("cm", json!({"metadata": {"name": "cm"}, "data": data}))
    }

    fn pod() -> Pod {
        let token = json!({"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]});
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "team", "uid": "u"}, "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "volumeMounts": [mount("config"), mount("id"), mount("scratch")]}],
            "volumes": [
                {"name": "config", "configMap": {"name": "cm"}}, {"name": "id", "projected": token},
                {"name": "scratch", "emptyDir": {}},
            ],
        }}))
        .unwrap()
    }

    #[tokio::test]
    async fn what_volumes_show_is_renewed_and_one_that_is_gone_holds_up_no_other() {
        let (dir, pod, fields) = (tempfile::tempdir().unwrap(), pod(), Sources::default());
        let read = |file: &str| std::fs::read_to_string(dir.path().join("volumes").join(file));
        let client = server(&[map(json!({"a": "1", "b": "1"})), token("first")]);
        let made = make(&client, &pod, dir.path(), &fields).await.unwrap();
        assert_eq!((made.renew_after, made.can_change), (Some(Duration::from_secs(480)), true));
        let gone = server(&[token("second")]);
        let (again, outcome) = renew(&gone, &pod, dir.path(), &fields, Kept::Token).await;
        assert!(outcome.is_ok() && again == made.renew_after, "{outcome:?}");
        assert!(renew(&gone, &pod, dir.path(), &fields, Kept::Content).await.1.is_err());
        assert_eq!((read("id/token").unwrap(), read("config/a").unwrap()), ("second".into(), "1".into()));
        let changed = server(&[map(json!({"a": "2"}))]);
        renew(&changed, &pod, dir.path(), &fields, Kept::Content).await.1.unwrap();
        assert_eq!(read("config/a").unwrap(), "2");
        assert!(read("config/b").is_err(), "a key that is gone");
        assert_eq!(read("id/token").unwrap(), "second");
    }

    #[tokio::test]
    async fn what_the_api_server_keeps_is_not_written_by_containers() {
        let (dir, pod) = (tempfile::tempdir().unwrap(), pod());
        let client = server(&[map(json!({"a": "1"})), token("first")]);
        let made = make(&client, &pod, dir.path(), &Sources::default()).await.unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mounts = made.mounts(&pod, container, Path::new("/message")).unwrap();
        let read_only: Vec<bool> = mounts.iter().map(|mount| mount.read_only).collect();
        assert_eq!(read_only, [true, true, false, false]);
    }

    #[test]
    fn a_file_is_replaced_and_no_link_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("elsewhere"), "theirs").unwrap();
        for link in ["token", "token.new"] {
            std::os::unix::fs::symlink(path("elsewhere"), path(link)).unwrap();
        }
        replace(&path("token"), b"ours", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(path("elsewhere")).unwrap(), "theirs");
        assert!(std::fs::symlink_metadata(path("token")).unwrap().is_file());
    }
}
