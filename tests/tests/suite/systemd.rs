//! The systemd unit: understood by systemd, with a binary that is there, and closed as far as it should be; and what it
//! does under a systemd that runs.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::{Request, ServiceManager, exchange, gateway_binary, get, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What `systemd-analyze security` may say at most, in tenths.
const EXPOSURE: &str = "--threshold=20";

/// What it says of the unit.
fn analyze(arguments: &[&str], unit: &Path) -> Result<String> {
    let out = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .stdin(Stdio::null())
        .output()
        .context("systemd-analyze cannot be started; run: sudo apt-get install -y systemd")?;
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(out.status.success(), "{arguments:?}: {said}");
    Ok(said)
}

#[test]
fn the_units_are_units_and_the_service_is_closed() -> Result<()> {
    let text = unit(UNIT)?;
    let installed = "/usr/local/bin/tidegate-gateway";
    ensure!(text.contains(&format!("ExecStart={installed} ")), "{text}");
    let folder = tempfile::tempdir()?;
    let unit_file = folder.path().join(UNIT);
    std::fs::copy(workspace().join("deploy/systemd").join(SOCKET), folder.path().join(SOCKET))?;
    std::fs::write(&unit_file, text.replace(installed, &gateway_binary()?.display().to_string()))?;
    for name in [UNIT, SOCKET] {
        let said = analyze(&["verify", "--man=no"], &folder.path().join(name))?;
        // of other units it may say what it likes
        ensure!(!said.contains(UNIT) && !said.contains(SOCKET), "{said}");
    }
    analyze(&["security", "--offline=true", "--no-pager", EXPOSURE], &unit_file)?;
    Ok(())
}

/// How long a busy machine may take for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
const UNIT: &str = "tidegate.service";
const SOCKET: &str = "tidegate.socket";
/// Where the config is inside.
const CONFIG: &str = "/etc/tidegate";
const GATEWAY: &str = r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: site, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
  - port: {number: 443, name: http-too, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: routes, namespace: istio-system}
spec:
  hosts: ["*"]
  gateways: [site]
  http:
  - directResponse: {status: 200, body: {string: one}}
"#;
/// A policy that cannot be enforced keeps a new process from being ready.
const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                      metadata: {name: p, namespace: istio-system}\nspec: {jwtRules: [{issuer: i, jwks: no JSON}]}\n";
/// Where its log is, as the journal does not run.
const LOG: &str = "[Service]\nStandardOutput=null\nStandardError=append:/run/tidegate.log\n";

fn unit(name: &str) -> Result<String> {
    let path = workspace().join("deploy/systemd").join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The same service with a program in it that does nothing.
fn probe(text: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some(("Type", _)) => "Type=oneshot".into(),
        Some(("ExecStart", _)) => "ExecStart=/bin/true".into(),
        Some(("ExecReload" | "Restart", _)) => String::new(),
        _ => line.replace("=tidegate", "=probe"),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// systemd with the gateway as its service, which has not been started; `Err` where this machine is not fit for that.
fn systemd(more: &[(&str, &str)]) -> Result<Result<ServiceManager>> {
    let text = unit(UNIT)?;
    let probe = probe(&text);
    let units = [&[(UNIT, &*text), ("tidegate.service.d/log.conf", LOG), ("probe.service", &*probe)], more];
    let manager = match ServiceManager::boot(&units.concat(), &[gateway_binary()?]) {
        Ok(manager) => manager,
        Err(unfit) => return Ok(Err(unfit)),
    };
    if let Err(error) = manager.control(&["start", "probe"]) {
        // from 200 on it is systemd that could not do what the unit asks for (systemd.exec(5))
        let status = manager.property("probe.service", "ExecMainStatus")?;
        ensure!(status.parse::<u32>()? >= 200, "{error:#}");
        return Ok(Err(error.context(format!("this machine cannot close a service off: status {status}"))));
    }
    std::fs::create_dir_all(manager.file(CONFIG))?;
    Ok(Ok(manager))
}

/// Runs a test in the network of a systemd, or says why it cannot be run here.
fn under_systemd(
    more: &[(&str, &str)],
    test: impl AsyncFnOnce(&ServiceManager) -> Result<()> + Send,
) -> Result<()> {
    let run = || -> Result<()> {
        let manager = match systemd(more)? {
            Ok(manager) => manager,
            Err(unfit) => {
                crate::say(&format!("NOT RUN, the service under a real systemd: {unfit:#}\n"));
                return Ok(());
            }
        };
        manager.enter_network()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(&manager)).with_context(|| {
            let log = std::fs::read_to_string(manager.file("/run/tidegate.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(12).collect();
            format!("its log, the last line first: {}", lines.join(" | "))
        })
    };
    // a thread that has gone into a network does not come back
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|e| std::panic::resume_unwind(e))
}

async fn main_process(manager: &ServiceManager, before: &str) -> Result<String> {
    manager.wait_for(UNIT, "MainPID", |now| now != before && now != "0").await
}

async fn answers(manager: &ServiceManager, port: u16) -> Result<()> {
    let answer = get(manager.at(port), "a.example", "/").await?;
    ensure!(answer.status == 200, "port {port} answers {}", answer.status);
    Ok(())
}

/// Requests one after the other until it is over.
async fn load(manager: &ServiceManager, port: u16, over: &AtomicBool, answered: &AtomicUsize) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        answers(manager, port).await?;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn the_service_is_one_of_a_real_systemd() -> Result<()> {
    under_systemd(&[], async |manager| {
        std::fs::write(manager.file(CONFIG).join("gateway.yaml"), GATEWAY)?;
        manager.control(&["start", UNIT])?;
        // it returns when all is there
        for port in [80, 443] {
            answers(manager, port).await?;
        }
        let process = main_process(manager, "").await?;
        let user = manager.run(&["stat", "-c", "%u", &format!("/proc/{process}")])?.stdout;
        ensure!(user.trim_ascii() != b"0", "it runs as root");
        costs_nothing(manager, "reload").await?;
        fails_to_reload(manager).await.context("a reload that fails")?;
        is_killed(manager).await.context("kill -9")?;
        stops(manager).await.context("stop")
    })
}

/// Has `systemctl` do this twice while requests flow, which ends in another process each time.
async fn costs_nothing(manager: &ServiceManager, verb: &'static str) -> Result<()> {
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let change = async {
        for _ in 0..2 {
            let (before, mark) = (main_process(manager, "").await?, answered.load(Ordering::Relaxed));
            let mut command = manager.command(&["systemctl", verb, UNIT]);
            let out = tokio::task::spawn_blocking(move || command.output()).await??;
            ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            main_process(manager, &before).await?;
            manager.wait_for(UNIT, "SubState", |state| state == "running").await?;
            let patience = Instant::now() + PATIENCE;
            while answered.load(Ordering::Relaxed) < mark + 4 {
                ensure!(Instant::now() < patience, "nothing is answered any more");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        over.store(true, Ordering::Relaxed);
        Ok(())
    };
    let load = |port| load(manager, port, &over, &answered);
    let all = tokio::try_join!(change, load(80), load(443));
    all.map(|_| ()).context(verb)
}

async fn fails_to_reload(manager: &ServiceManager) -> Result<()> {
    let policy = manager.file(CONFIG).join("policy.yaml");
    std::fs::write(&policy, POLICY)?;
    let before = main_process(manager, "").await?;
    manager.control(&["reload", UNIT])?;
    manager.wait_for(UNIT, "StatusText", |text| text.contains("the last upgrade failed: ")).await?;
    ensure!(main_process(manager, "").await? == before, "the service is another process");
    answers(manager, 80).await?;
    Ok(std::fs::remove_file(policy)?)
}

async fn is_killed(manager: &ServiceManager) -> Result<()> {
    // from what was good last, as there is nothing good now
    let kept = manager.file("/var/lib/tidegate/last-good.jsonl");
    let kept_at = Instant::now() + PATIENCE;
    while !kept.exists() {
        ensure!(Instant::now() < kept_at, "nothing is kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::write(manager.file(CONFIG).join("gateway.yaml"), "kind: [")?;
    let before = main_process(manager, "").await?;
    let killed = Instant::now();
    manager.run(&["kill", "-s", "KILL", &before])?;
    while answers(manager, 80).await.is_err() {
        ensure!(killed.elapsed() < PATIENCE, "nothing answers any more");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    crate::say(&format!("systemd: killed, and served again after {:?}\n", killed.elapsed()));
    main_process(manager, &before).await?;
    ensure!(manager.property(UNIT, "NRestarts")? == "1");
    Ok(())
}

async fn stops(manager: &ServiceManager) -> Result<()> {
    let mut stream = TcpStream::connect(manager.at(80)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.exam").await?;
    // it is the gateway that has it, not a queue
    answers(manager, 80).await?;
    let mut stop = manager.command(&["systemctl", "stop", UNIT]).spawn()?;
    manager.wait_for(UNIT, "StatusText", |text| text == "draining").await?;
    stream.write_all(b"ple\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    manager.wait_for(UNIT, "ActiveState", |state| state == "inactive").await?;
    ensure!(stop.wait()?.success(), "systemctl stop fails");
    ensure!(manager.property(UNIT, "Result")? == "success");
    ensure!(exchange(&Request::to(manager.at(80))).await.is_err(), "somebody still answers");
    Ok(())
}

#[test]
fn ports_of_a_socket_unit_stay_open_whatever_the_service_does() -> Result<()> {
    let socket = unit(SOCKET)?;
    under_systemd(&[(SOCKET, &socket)], async |manager| {
        std::fs::write(manager.file(CONFIG).join("gateway.yaml"), GATEWAY)?;
        manager.control(&["start", SOCKET])?;
        // who connects has it started
        for port in [443, 80] {
            answers(manager, port).await?;
        }
        costs_nothing(manager, "restart").await?;
        costs_nothing(manager, "reload").await?;
        manager.control(&["stop", UNIT])?;
        answers(manager, 80).await.context("after a stop")
    })
}
