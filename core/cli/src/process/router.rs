//! `yard router`: the upstream L3 device.

use anyhow::Context as _;
use switchyard_lab::boot;
use switchyard_lab::channel::Channel;
use switchyard_lab::handover::Handover;
use switchyard_lab::supervisor::ROUTER_DNS;
use switchyard_lab::{listeners, router};

use super::supervisor::read_cluster;
use super::{InDirectory, credentials, plugins};

pub(crate) fn run(args: &InDirectory) -> anyhow::Result<()> {
    super::log::start();
    let directory = args.directory();
    let cluster = read_cluster(&directory)?;
    let ports = &cluster.spec.host_ports;
    let mut handover = Handover::receive(&Channel::from_stdin()?).context("receive the listeners")?;
    let _running = handover.take(boot::LOCK).context("receive the lock")?;
    let dns = [listeners::HOST_DNS, ROUTER_DNS].map(|name| listeners::take_dns(name, &mut handover));
    let doors =
        ports.iter().enumerate().map(|(index, port)| Ok((handover.listener(&listeners::name(index))?, port.to)));
    let config = router::Config {
        name: directory.name(),
        kubeconfig: directory.kubeconfig_of(credentials::ROUTER),
        listeners: doors.collect::<anyhow::Result<_>>()?,
        dns: dns.into_iter().collect::<Result<_, _>>()?,
        pool: cluster.spec.load_balancer.pool,
        plugin_path: plugins::search_path(),
        cluster: cluster.spec,
    };
    super::block_on(async { router::run(config, super::terminated()?).await })
}
