//! The Node object: what this machine is, in the words of a kubelet.

use serde_json::json;

use crate::api::cluster::now;
use crate::api::discovery::VERSION;
use crate::api::{Cluster, Resource};

/// Address that is reported; nothing listens there.
pub const HOST_IP: &str = "127.0.0.1";

/// Writes the Node object with this machine's boot id, kernel and memory.
pub fn register(cluster: &Cluster, name: &str) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let memory = format!("{}Ki", memory_kib(&read("/proc/meminfo")));
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    let figures = json!({ "cpu": cpus, "memory": memory, "pods": "110" });
    let time = now();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": time, "lastTransitionTime": time,
        })
    };
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
        },
        "spec": {},
        "status": {
            "capacity": figures,
            "allocatable": figures,
            "addresses": [
                { "type": "InternalIP", "address": HOST_IP },
                { "type": "Hostname", "address": name },
            ],
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "bootID": read("/proc/sys/kernel/random/boot_id"),
                "machineID": read("/etc/machine-id"),
                "systemUUID": "",
                "kernelVersion": read("/proc/sys/kernel/osrelease"),
                "osImage": "aftertrace-stage",
                "containerRuntimeVersion": "containerd://2.1.9",
                "kubeletVersion": VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": std::env::consts::ARCH,
            },
        },
    });
    debug_assert_eq!(Resource::from_kind("v1", "Node"), Some(Resource::Nodes));
    cluster.apply(node).expect("a Node with a name is served");
}

fn memory_kib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A pod's address: unique among the first 65,000 pods, in a range that a real cluster uses too.
pub fn pod_ip(sequence: u16) -> std::net::Ipv4Addr {
    let [high, low] = sequence.to_be_bytes();
    std::net::Ipv4Addr::new(10, 201, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::store::ObjectKey;

    #[test]
    fn the_node_tells_this_boot() {
        let cluster = Cluster::new();
        register(&cluster, "node1");
        let node = cluster.get(Resource::Nodes, &ObjectKey::new("", "node1")).unwrap();
        assert_eq!(node["status"]["nodeInfo"]["bootID"].as_str().unwrap().len(), 36);
        assert_eq!(memory_kib("MemTotal:       24684092 kB\n"), 24_684_092);
        assert_eq!(pod_ip(258).to_string(), "10.201.1.2");
    }
}
