//! Names of cgroups as kubelet and the container runtimes choose them, random but the same again for the same seed.

use oom_watcher_testkit::kills::report::Container;

/// The path of the `index`-th container's cgroup, and whose it is. Ten containers have ten of the shapes that are in
/// the field, by turns.
pub(crate) fn kubernetes(seed: u64, index: u64) -> (String, Option<Container>) {
    let mut random = Random(seed.wrapping_add(index.wrapping_mul(0xd134_2543_de82_ef95)));
    let pod_uid = pod_uid(&mut random);
    let container_id =
        format!("{:016x}{:016x}{:016x}{:016x}", random.next(), random.next(), random.next(), random.next());
    let underscored = pod_uid.replace('-', "_");
    let systemd = |class: &str, leaf: String| {
        let between = if class.is_empty() { String::new() } else { format!("kubepods-{class}.slice/") };
        let dashed = if class.is_empty() { String::new() } else { format!("{class}-") };
        format!("kubepods.slice/{between}kubepods-{dashed}pod{underscored}.slice/{leaf}")
    };
    let path = match index % 10 {
        0 => format!("kubepods/burstable/pod{pod_uid}/{container_id}"),
        1 => format!("kubepods/besteffort/pod{pod_uid}/{container_id}"),
        2 => format!("kubepods/pod{pod_uid}/{container_id}"),
        3 => systemd("burstable", format!("cri-containerd-{container_id}.scope")),
        4 => systemd("besteffort", format!("cri-containerd-{container_id}.scope")),
        5 => systemd("", format!("cri-containerd-{container_id}.scope")),
        6 => systemd("burstable", format!("crio-{container_id}.scope")),
        7 => systemd("", format!("crio-{container_id}.scope")),
        8 => systemd("besteffort", format!("docker-{container_id}.scope")),
        _ => systemd("burstable", format!("docker-{container_id}.scope")),
    };
    (path, Some(Container { pod_uid, container_id }))
}

/// A random uid of version 4, as the API server makes them.
fn pod_uid(random: &mut Random) -> String {
    let (high, low) = (random.next(), random.next());
    let variant = 0x8000 | (low >> 48) & 0x3fff;
    format!(
        "{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// SplitMix64: random enough for names, and no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}
