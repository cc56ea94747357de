//! Names that kubelets give: cgroups of pods and containers under both drivers, and container ids.

use rand::Rng;

/// Who names the cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// `/kubepods/burstable/pod<uid>/<id>`
    #[default]
    Cgroupfs,
    /// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`
    Systemd,
}

/// Quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl QosClass {
    /// As `status.qosClass` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    fn cgroup(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

impl CgroupDriver {
    /// The cgroup of all pods of a class below the kubelet's cgroup root; that of Guaranteed pods is the one
    /// above all classes.
    pub fn class_cgroup(self, qos: QosClass) -> String {
        match (self, qos.cgroup()) {
            (Self::Cgroupfs, None) => "kubepods".to_owned(),
            (Self::Cgroupfs, Some(class)) => format!("kubepods/{class}"),
            (Self::Systemd, None) => "kubepods.slice".to_owned(),
            (Self::Systemd, Some(class)) => format!("kubepods.slice/kubepods-{class}.slice"),
        }
    }

    /// The pod's cgroup below the kubelet's cgroup root, without leading slash.
    pub fn pod_cgroup(self, qos: QosClass, uid: &str) -> String {
        let class = self.class_cgroup(qos);
        match self {
            Self::Cgroupfs => format!("{class}/pod{uid}"),
            Self::Systemd => {
                let of = qos.cgroup().map(|class| format!("-{class}")).unwrap_or_default();
                format!("{class}/kubepods{of}-pod{}.slice", escape(uid))
            }
        }
    }

    /// The container's cgroup inside the pod's.
    pub fn container_cgroup(self, container_id: &str) -> String {
        match self {
            Self::Cgroupfs => container_id.to_owned(),
            Self::Systemd => format!("cri-containerd-{container_id}.scope"),
        }
    }
}

/// systemd reads a dash in a slice's name as a level of its own.
fn escape(uid: &str) -> String {
    uid.replace('-', "_")
}

/// A container id as containerd makes them: 64 random hexadecimal digits.
pub fn container_id() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";

    #[test]
    fn cgroupfs_names_are_the_recorded_ones() {
        let check = |qos, expected: &str| assert_eq!(CgroupDriver::Cgroupfs.pod_cgroup(qos, UID), expected);
        check(QosClass::Burstable, "kubepods/burstable/pod7c925680-6d5c-463d-b7a3-c322719af62a");
        check(QosClass::BestEffort, "kubepods/besteffort/pod7c925680-6d5c-463d-b7a3-c322719af62a");
        check(QosClass::Guaranteed, "kubepods/pod7c925680-6d5c-463d-b7a3-c322719af62a");
    }

    #[test]
    fn systemd_names_escape_the_uid() {
        assert_eq!(
            CgroupDriver::Systemd.pod_cgroup(QosClass::Burstable, UID),
            "kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod7c925680_6d5c_463d_b7a3_c322719af62a.slice"
        );
        assert_eq!(CgroupDriver::Systemd.container_cgroup("ab"), "cri-containerd-ab.scope");
    }

    #[test]
    fn container_ids_are_64_hexadecimal_digits() {
        let id = container_id();
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_ne!(id, container_id());
    }
}
