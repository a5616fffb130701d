//! A name server that answers as a test tells it.

use anyhow::{Context, Result};
use async_trait::async_trait;
use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

const PORT: u16 = 5353;
/// Seconds for which answers hold: as short as the gateway takes them.
const TTL: u32 = 1;

/// Serves UDP and TCP. Names that it was not told about do not exist.
pub struct NameServer {
    at: SocketAddr,
    zone: Arc<Zone>,
    running: Option<Server<Handler>>,
}

#[derive(Default)]
struct Zone {
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    asked: Mutex<BTreeMap<String, usize>>,
    /// Names whose answers wait.
    withheld: watch::Sender<Vec<String>>,
}

struct Handler(Arc<Zone>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NameServer {
    /// Starts one on this address.
    pub async fn start(ip: Ipv4Addr) -> Result<Self> {
        let at = SocketAddr::new(ip.into(), PORT);
        let mut server = NameServer { at, zone: Arc::default(), running: None };
        server.revive().await?;
        Ok(server)
    }

    /// Starts it again, with what it was told.
    pub async fn revive(&mut self) -> Result<()> {
        let mut server = Server::new(Handler(self.zone.clone()));
        let udp = UdpSocket::bind(self.at).await.with_context(|| format!("a name server on {}", self.at))?;
        server.register_socket(udp);
        server.register_listener(TcpListener::bind(self.at).await?, Duration::from_secs(60), 32);
        self.running = Some(server);
        Ok(())
    }

    /// Ends it: nobody listens there any more.
    pub fn die(&mut self) {
        self.running = None;
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// A name has these addresses from now on, for a second at a time.
    pub fn answer(&self, name: &str, addresses: &[IpAddr]) {
        lock(&self.zone.names).insert(name.to_owned(), addresses.to_vec());
    }

    /// Keeps the answers to a name back until [`NameServer::release`].
    pub fn withhold(&self, name: &str) {
        self.zone.withheld.send_modify(|names| names.push(name.to_owned()));
    }

    /// Sends what was kept back.
    pub fn release(&self) {
        self.zone.withheld.send_modify(Vec::clear);
    }

    /// How often it was asked for a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.zone.asked).get(name).copied().unwrap_or(0)
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let mut records = Vec::new();
        if let Ok(info) = request.request_info() {
            let name = info.query.name().to_string().trim_end_matches('.').to_owned();
            *lock(&self.0.asked).entry(name.clone()).or_default() += 1;
            let mut withheld = self.0.withheld.subscribe();
            // an error is the end of the test
            let _ = withheld.wait_for(|names| !names.contains(&name)).await;
            match lock(&self.0.names).get(&name) {
                None => metadata.response_code = ResponseCode::NXDomain,
                Some(addresses) => records.extend(addresses.iter().filter_map(|address| {
                    let data = match (address, info.query.query_type()) {
                        (IpAddr::V4(ip), RecordType::A) => RData::A((*ip).into()),
                        (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA((*ip).into()),
                        _ => return None,
                    };
                    Some(Record::from_rdata(info.query.name().into(), TTL, data))
                })),
            }
        }
        let answer = MessageResponseBuilder::from_message_request(request);
        let sent = response.send_response(answer.build(metadata, &records, [], [], [])).await;
        sent.unwrap_or_else(|_| {
            ResponseInfo::from(hickory_proto::op::Header {
                metadata,
                counts: hickory_proto::op::HeaderCounts::default(),
            })
        })
    }
}
