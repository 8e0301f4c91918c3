//! That the directory of the state is the agent's after what `overlays/non-root` runs before it: root without any
//! capability, as the kubelet leaves it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::renders::{Renders, items, run, text};
use oom_watcher_testkit::needs::{self, needs};

/// As a container of that user and group is: no capability, and none to be had.
fn confined(user: &str, group: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        user,
        "--regid",
        group,
        "--clear-groups",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        "--no-new-privs",
    ]);
    command
}

/// What the agent does there: reads its state, writes another and puts it in the place of the first, and sets aside
/// what it cannot use.
fn used_by_agent(folder: &Path) -> Result<String, String> {
    let script = r#"cd "$0" && cat state.json && echo new >state.json.new && mv state.json.new state.json &&
        mv state.json state.json.bad && echo again >state.json"#;
    run(confined("65532", "65532").args(["sh", "-c", script]).arg(folder))
}

#[test]
fn the_state_is_handed_over_by_root_without_capabilities() {
    needs!(needs::root());
    let renders = needs!(Renders::find());
    let overlay = renders.overlay("non-root");
    let container = &overlay.get("DaemonSet", "oom-watcher")["spec"]["template"]["spec"]["initContainers"][0];
    let context = &container["securityContext"];
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("oom-watcher");
    // Whoever it is has to get there.
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
    fs::write(own.join("state.json"), "of root\n").unwrap();
    fs::set_permissions(own.join("state.json"), Permissions::from_mode(0o600)).unwrap();
    assert!(used_by_agent(&own).is_err(), "nothing would have to be handed over");
    // At each start, so it also finds what the agent has made.
    for expected in ["of root\n", "again\n"] {
        let words = items(&container["command"])
            .iter()
            .map(|word| text(word).replace("/run/oom-watcher", own.to_str().unwrap()));
        run(confined(&context["runAsUser"].to_string(), &context["runAsGroup"].to_string()).args(words)).unwrap();
        assert_eq!(used_by_agent(&own), Ok(expected.to_owned()));
        let metadata = fs::metadata(&own).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 65532, 0o770));
    }
}
