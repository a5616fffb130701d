//! Requests for the tests of this room.

use super::{Flags, Headers, Record, Workload};
use crate::tls::{ClientCertificate, TlsFacts};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tidegate_model::{
    Cluster, ClusterName, ConnectionLimits, HeaderName, LoadBalancer, OtlpTransport, RetryBudget, Share,
    Tracing, UpstreamProtocol,
};

/// Headers of a request and its response; trailers are those of the response.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) request: Vec<(&'static str, Vec<u8>)>,
    pub(super) response: Vec<(&'static str, Vec<u8>)>,
    pub(super) trailers: Vec<(&'static str, Vec<u8>)>,
}

fn find(list: &[(&'static str, Vec<u8>)], name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
    list.iter().filter(|(n, _)| *n == name.as_str()).for_each(|(_, v)| f(v));
}

impl Headers for Lists {
    fn request(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        find(&self.request, name, f);
    }

    fn response(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        find(&self.response, name, f);
    }

    fn trailer(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        find(&self.trailers, name, f);
    }
}

pub(super) fn cluster() -> Cluster {
    Cluster {
        name: ClusterName::outbound(9080, "v1", "reviews.default.svc.cluster.local"),
        host: "reviews.default.svc.cluster.local".into(),
        port: 9080,
        subset: "v1".into(),
        service_name: "reviews".into(),
        service_namespace: "default".into(),
        protocol: UpstreamProtocol::Http1,
        load_balancer: LoadBalancer::default(),
        outlier_detection: None,
        warmup: None,
        limits: ConnectionLimits::default(),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        retry_budget: RetryBudget::default(),
        tls: None,
        proxy_protocol: None,
    }
}

pub(super) fn workload() -> Workload {
    let labels = [("app", "reviews"), ("version", "v1")].map(|(k, v)| (k.to_string(), v.to_string()));
    Workload::new(&Arc::from("reviews-v1"), &BTreeMap::from(labels))
}

/// A connection whose client showed a certificate.
pub(super) fn tls() -> TlsFacts {
    let client = Some(ClientCertificate::testing());
    let (_, shutdown) = tokio::sync::watch::channel(false);
    let (version, cipher) = ("TLSv1.3", "TLS_AES_128_GCM_SHA256");
    TlsFacts { sni: None, table: "a".into(), version, cipher, client, shutdown }
}

/// How requests are traced.
pub(super) fn tracing() -> Tracing {
    Tracing {
        collector: ClusterName::outbound(4317, "", "collector"),
        transport: OtlpTransport::Grpc,
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        sampling: Share::all(),
        propagates: true,
        max_path: 256,
        istio_tags: true,
        tags: Vec::new(),
    }
}

/// A request that was answered by an upstream.
pub(super) fn forwarded<'a>(cluster: &'a Cluster, workload: &'a Workload, headers: &'a Lists) -> Record<'a> {
    Record {
        start: UNIX_EPOCH + Duration::from_millis(1_709_210_096_789),
        duration: Duration::from_micros(7_400),
        upstream_service_time: Some(Duration::from_millis(6)),
        protocol: "HTTP/1.1",
        method: b"GET",
        path: b"/reviews/0?u=1",
        authority: b"bookinfo.example.com",
        upstream_authority: b"reviews:9080",
        request_duration: Some(Duration::from_millis(1)),
        attempts: 1,
        transport_failure: "",
        tls: None,
        connection_id: 7,
        status: 200,
        flags: Flags::default(),
        details: "via_upstream",
        bytes_received: 0,
        bytes_sent: 358,
        forwarded_for: b"203.0.113.7",
        user_agent: b"curl/8.5.0",
        request_id: b"6e3d0d0a-0b3c-4c0e-9d0f-7f4a5c1b2d3e",
        route: None,
        cluster: Some(cluster),
        cluster_name: cluster.name.as_str(),
        workload: Some(workload),
        upstream_host: "10.0.0.9:9080".parse().ok(),
        upstream_local: "10.0.0.1:40000".parse().ok(),
        downstream_local: "[::ffff:10.0.0.1]:8443".parse().unwrap(),
        downstream_remote: "203.0.113.7:50000".parse().unwrap(),
        downstream_direct: "[2001:db8::1]:50001".parse().unwrap(),
        sni: "bookinfo.example.com",
        grpc: false,
        traced: None,
        headers,
    }
}

/// A request that no rule matched, with nothing in it.
pub(super) fn unrouted(headers: &Lists) -> Record<'_> {
    Record {
        start: UNIX_EPOCH,
        duration: Duration::ZERO,
        upstream_service_time: None,
        protocol: "HTTP/1.0",
        method: b"GET",
        path: b"/",
        authority: b"",
        upstream_authority: b"",
        request_duration: None,
        attempts: 0,
        transport_failure: "",
        tls: None,
        connection_id: 1,
        status: 0,
        flags: Flags::default(),
        details: "",
        bytes_received: 0,
        bytes_sent: 0,
        forwarded_for: b"",
        user_agent: b"",
        request_id: b"",
        route: None,
        cluster: None,
        cluster_name: "",
        workload: None,
        upstream_host: None,
        upstream_local: None,
        downstream_local: "10.0.0.1:8080".parse().unwrap(),
        downstream_remote: "10.0.0.2:50000".parse().unwrap(),
        downstream_direct: "10.0.0.2:50000".parse().unwrap(),
        sni: "",
        grpc: false,
        traced: None,
        headers,
    }
}
