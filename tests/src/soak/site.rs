//! What is reloaded: a Gateway with its routes, workloads and certificate, in a folder of its own.

use super::Plan;
use crate::{Identity, objects};
use anyhow::Result;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// How a file is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Written in place.
    InPlace,
    /// Written beside, and renamed over it.
    Rename,
    /// All files at once by a symlink, as Kubernetes swaps those of a mounted ConfigMap.
    Symlink,
}

impl Style {
    pub(super) const ALL: [Style; 3] = [Style::InPlace, Style::Rename, Style::Symlink];

    /// Its name in host names and tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Style::InPlace => "in-place",
            Style::Rename => "rename",
            Style::Symlink => "symlink",
        }
    }
}

/// What a reload changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Route,
    Weights,
    Certificate,
    Ports,
    Endpoints,
}

impl Change {
    pub(super) const ALL: [Change; 5] =
        [Change::Route, Change::Weights, Change::Certificate, Change::Ports, Change::Endpoints];

    pub(super) fn name(self) -> &'static str {
        match self {
            Change::Route => "route",
            Change::Weights => "weights",
            Change::Certificate => "certificate",
            Change::Ports => "ports",
            Change::Endpoints => "endpoints",
        }
    }

    /// The file that it is in.
    fn file(self) -> &'static str {
        match self {
            Change::Route | Change::Weights => "routes.yaml",
            Change::Certificate => "secret.yaml",
            Change::Ports => "gateway.yaml",
            Change::Endpoints => "workloads.yaml",
        }
    }
}

/// Certificates that take turns.
pub(super) const CERTIFICATES: usize = 3;
/// Instances of each workload that take turns.
pub(super) const INSTANCES: usize = 2;
/// Shares of `red` and `blue` that take turns.
pub(super) const WEIGHTS: [(u8, u8); 3] = [(100, 0), (0, 100), (40, 60)];
/// The workloads.
pub(super) const WORKLOADS: [&str; 2] = ["red", "blue"];

/// One site: its state, and where it is written.
pub(super) struct Site {
    pub(super) style: Style,
    folder: PathBuf,
    truncates: bool,
    /// Instances of both workloads, one after the other.
    instances: Vec<SocketAddr>,
    pub(super) identities: Vec<Identity>,
    ports: Ports,
    /// Counts the changes.
    pub(super) version: usize,
    /// The version of the last change of routes.
    pub(super) routes: usize,
    /// The version of the last change of weights.
    pub(super) weighed: usize,
    pub(super) weights: usize,
    pub(super) certificate: usize,
    pub(super) instance: usize,
    /// Whether the listeners that come and go are there.
    pub(super) open: bool,
}

/// The ports of a site: plain and TLS, those that stay and those that come and go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) staying: [u16; 2],
    pub(super) passing: [u16; 2],
}

/// The host that a site serves.
pub(super) fn host(style: Style) -> String {
    format!("{}.example", style.name())
}

impl Site {
    /// Writes the first version below `root`.
    pub(super) fn new(
        root: &Path,
        style: Style,
        plan: &Plan,
        instances: Vec<SocketAddr>,
        identities: Vec<Identity>,
    ) -> Result<Self> {
        let n = Style::ALL.iter().position(|s| *s == style).unwrap_or_default();
        let n = u16::try_from(n)?;
        let ports = Ports { staying: [8080 + n, 8443 + n], passing: [9080 + n, 9443 + n] };
        let folder = root.join(style.name());
        fs::create_dir(&folder)?;
        let truncates = plan.truncates;
        let site = Site {
            style,
            folder,
            truncates,
            instances,
            identities,
            ports,
            version: 0,
            routes: 0,
            weighed: 0,
            weights: 0,
            certificate: 0,
            instance: 0,
            open: true,
        };
        if style == Style::Symlink {
            site.swap()?;
            for change in Change::ALL {
                let link = site.folder.join(change.file());
                if !link.is_symlink() {
                    symlink(Path::new("..data").join(change.file()), link)?;
                }
            }
        } else {
            for change in Change::ALL {
                fs::write(site.folder.join(change.file()), site.text(change))?;
            }
        }
        Ok(site)
    }

    pub(super) fn ports(&self) -> Ports {
        self.ports
    }

    /// Changes one thing, and writes it.
    pub(super) fn change(&mut self, change: Change) -> Result<()> {
        self.version += 1;
        match change {
            Change::Route => self.routes = self.version,
            Change::Weights => {
                self.weighed = self.version;
                self.weights = (self.weights + 1) % WEIGHTS.len();
            }
            Change::Certificate => self.certificate = (self.certificate + 1) % CERTIFICATES,
            Change::Ports => self.open = !self.open,
            Change::Endpoints => self.instance = (self.instance + 1) % INSTANCES,
        }
        let (path, text) = (self.folder.join(change.file()), self.text(change));
        match self.style {
            Style::InPlace if self.truncates => fs::write(path, text)?,
            Style::InPlace => {
                let mut file = OpenOptions::new().write(true).open(path)?;
                file.write_all(text.as_bytes())?;
                file.set_len(text.len().try_into()?)?;
            }
            Style::Rename => {
                let beside = self.folder.join(".new");
                fs::write(&beside, text)?;
                fs::rename(beside, path)?;
            }
            Style::Symlink => self.swap()?,
        }
        Ok(())
    }

    /// Writes a new folder, leads `..data` to it, and removes the old one.
    fn swap(&self) -> Result<()> {
        let (new, link) = (format!("..{}", self.version), self.folder.join("..data"));
        fs::create_dir(self.folder.join(&new))?;
        for change in Change::ALL {
            fs::write(self.folder.join(&new).join(change.file()), self.text(change))?;
        }
        let (old, beside) = (fs::read_link(&link).ok(), self.folder.join("..data_tmp"));
        symlink(&new, &beside)?;
        fs::rename(beside, link)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.join(old))?;
        }
        Ok(())
    }

    /// A file's text, of the same length whatever is in it: one write replaces it whole.
    fn text(&self, change: Change) -> String {
        let mut text = match change.file() {
            "gateway.yaml" => self.gateway(),
            "routes.yaml" => self.virtual_service(),
            "secret.yaml" => self.secret(),
            _ => self.service_entries(),
        };
        let whole = text.len().next_multiple_of(4096);
        while text.len() < whole {
            text.push('\n');
        }
        text
    }

    fn gateway(&self) -> String {
        let name = self.style.name();
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n\
             \x20 selector: {{istio: ingressgateway}}\n  servers:\n"
        );
        let Ports { staying, passing } = self.ports;
        for [plain, tls] in [Some(staying), self.open.then_some(passing)].into_iter().flatten() {
            let _ = write!(
                text,
                "  - port: {{number: {plain}, name: http-{plain}, protocol: HTTP}}\n    hosts: ['*']\n\
                 \x20 - port: {{number: {tls}, name: https-{tls}, protocol: HTTPS}}\n    hosts: ['*']\n\
                 \x20   tls: {{mode: SIMPLE, credentialName: {name}}}\n"
            );
        }
        text
    }

    fn virtual_service(&self) -> String {
        let (name, (red, blue)) = (self.style.name(), WEIGHTS[self.weights]);
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n\
             \x20 hosts: [{host}]\n  gateways: [{name}]\n  http:\n\
             \x20 - match: [{{uri: {{exact: /routes/{routes}}}}}]\n\
             \x20   directResponse: {{status: 200, body: {{string: 'route {routes}'}}}}\n\
             \x20 - headers: {{response: {{set: {{x-weights: '{weighed} {red} {blue}'}}}}}}\n    route:\n\
             \x20   - {{destination: {{host: red.{name}.workloads}}, weight: {red}}}\n\
             \x20   - {{destination: {{host: blue.{name}.workloads}}, weight: {blue}}}\n",
            host = host(self.style),
            routes = self.routes,
            weighed = self.weighed,
        )
    }

    fn service_entries(&self) -> String {
        let (name, mut text) = (self.style.name(), String::new());
        for (n, workload) in WORKLOADS.iter().enumerate() {
            let at = self.instances[n * INSTANCES + self.instance];
            let _ = write!(
                text,
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {workload}-{name}}}\n\
                 spec:\n  hosts: [{workload}.{name}.workloads]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n\
                 \x20 ports: [{{number: 80, name: http, protocol: HTTP}}]\n\
                 \x20 endpoints: [{{address: {}, ports: {{http: {}}}}}]\n",
                at.ip(),
                at.port()
            );
        }
        text
    }

    fn secret(&self) -> String {
        objects::secret(self.style.name(), &self.identities[self.certificate])
    }
}
