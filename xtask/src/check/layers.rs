//! Who may depend on whom (docs/ARCHITECTURE.md draws it), and which outside crates may stand where.

use super::Violation;
use crate::metadata::Package;

/// What a member may depend on, in the order of the layers. Development dependencies follow the same table,
/// plus `soft-kvm-testkit`.
const LAYERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("protocol", &["core"]),
    ("video", &["core", "protocol"]),
    ("input", &["core", "protocol"]),
    ("platform-linux", &["core", "protocol", "video", "input"]),
    ("platform-openh264", &["core", "protocol", "video"]),
    (
        "platform",
        &[
            "core",
            "protocol",
            "video",
            "input",
            "platform-linux",
            "platform-openh264",
        ],
    ),
    ("security", &["core", "protocol"]),
    ("discovery", &["core"]),
    ("service", &["core", "protocol", "security"]),
    ("monitoring", &["core"]),
    ("server", PROGRAM),
    ("client", PROGRAM),
    (
        "testkit",
        &["core", "protocol", "video", "input", "security"],
    ),
    ("benches", EVERYTHING),
    ("lab-tests", EVERYTHING),
    ("tests", EVERYTHING),
    ("xtask", &["core", "benches"]),
];

const PROGRAM: &[&str] = &[
    "core",
    "protocol",
    "video",
    "input",
    "platform",
    "security",
    "discovery",
    "service",
    "monitoring",
];

const EVERYTHING: &[&str] = &[
    "core",
    "protocol",
    "video",
    "input",
    "platform",
    "security",
    "discovery",
    "service",
    "monitoring",
    "server",
    "client",
    "testkit",
];

/// The only outside crates that the pure crates may use: no clock, socket, thread or executor in them.
const PURE: &[(&str, &[&str])] = &[
    (
        "core",
        &[
            "rsjsonnet-front",
            "rsjsonnet-lang",
            "ryu-js",
            "serde",
            "serde_json",
            "sha2",
            "strsim",
            "thiserror",
        ],
    ),
    (
        "protocol",
        &[
            "aes",
            "arrayvec",
            "base64",
            "ctr",
            "ring",
            "rtcp-types",
            "rtp-types",
            "serde",
            "serde_json",
            "thiserror",
            "zeroize",
        ],
    ),
    (
        "video",
        &["arrayvec", "png", "spleen-font", "thiserror", "yuv"],
    ),
    ("input", &["arrayvec", "thiserror"]),
];

/// Runtimes, which only some members may use, in their tests too.
const RUNTIMES: &[(&[&str], &[&str])] = &[
    // Asynchronous code belongs to the programs' control side, on an executor that they own.
    (
        &[
            "async-executor",
            "async-tungstenite",
            "futures-rustls",
            "hyper",
            "if-watch",
            "smol",
            "smol-hyper",
        ],
        &["server", "client", "tests", "benches"],
    ),
    // The service crate hands signals to that executor as a file that async-io watches.
    (
        &["async-io", "futures-lite"],
        &["server", "client", "service", "tests", "benches"],
    ),
    (&["async-std", "tokio"], &[]),
];

/// Other outside crates that only some members may use; tests may use any.
const FENCED: &[(&[&str], &[&str])] = &[
    // The operating system.
    (&["drm", "evdevil", "x11rb"], &["platform-linux"]),
    (&["libc", "nix"], &["platform-linux", "platform-openh264"]),
    (&["openh264", "openh264-sys2"], &["platform-openh264"]),
    (&["arboard", "kbvm", "softbuffer", "winit"], &["client"]),
    // Trust.
    (&["rcgen", "spake2"], &["security"]),
    (&["rustls"], &["security", "server", "client"]),
    (&["mdns-sd"], &["discovery"]),
    (&["hdrhistogram", "prometheus"], &["monitoring"]),
];

/// Members that consist of tests.
const TESTS: &[&str] = &["benches", "lab-tests", "testkit", "tests"];

/// All breaches of the tables by these packages.
pub(super) fn violations(packages: &[Package]) -> Vec<Violation> {
    packages.iter().flat_map(of_package).collect()
}

fn of_package(package: &Package) -> Vec<Violation> {
    let member = short(&package.name);
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == member) else {
        return vec![format!(
            "{}: stands in no layer: give it a row in xtask/src/check/layers.rs",
            package.name
        )];
    };
    let mut violations = Vec::new();
    for dependency in &package.dependencies {
        let development = dependency.kind.as_deref() == Some("dev");
        let name = dependency.name.as_str();
        if name.starts_with("soft-kvm-") {
            let for_tests = development && name == "soft-kvm-testkit";
            if !allowed.contains(&short(name)) && !for_tests {
                violations.push(format!(
                    "{}: may not depend on {name}: its layer sees only {}",
                    package.name,
                    if allowed.is_empty() {
                        "itself".to_owned()
                    } else {
                        allowed.join(", ")
                    }
                ));
            }
            continue;
        }
        let pure = PURE
            .iter()
            .find(|(name, _)| *name == member)
            .filter(|_| !development);
        if let Some((_, list)) = pure
            && !list.contains(&name)
        {
            violations.push(format!(
                "{}: is a pure crate and may not use {name} (its list is in xtask/src/check/layers.rs)",
                package.name
            ));
        }
        let row = |rows: &[(&[&str], &'static [&'static str])]| {
            let row = rows.iter().find(|(crates, _)| crates.contains(&name));
            row.map(|(_, members)| *members)
        };
        let for_tests = development || TESTS.contains(&member);
        let fence = row(RUNTIMES).or_else(|| row(FENCED).filter(|_| !for_tests));
        if let Some(members) = fence
            && !members.contains(&member)
            && pure.is_none()
        {
            violations.push(format!(
                "{}: may not use {name}, which is for {}",
                package.name,
                if members.is_empty() {
                    "nobody".to_owned()
                } else {
                    members.join(", ")
                }
            ));
        }
    }
    violations
}

fn short(package: &str) -> &str {
    package.strip_prefix("soft-kvm-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Vec<Violation> {
        violations(&[Package {
            name: name.to_owned(),
            manifest_path: "Cargo.toml".into(),
            targets: Vec::new(),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).to_owned(),
                    kind: kind.map(str::to_owned),
                })
                .collect(),
        }])
    }

    #[test]
    fn upwards_and_sideways_is_refused() {
        for (name, dependency) in [
            ("soft-kvm-core", "soft-kvm-protocol"),
            ("soft-kvm-protocol", "soft-kvm-video"),
            ("soft-kvm-video", "soft-kvm-input"),
            ("soft-kvm-video", "soft-kvm-platform"),
            ("soft-kvm-platform-linux", "soft-kvm-platform"),
            ("soft-kvm-platform", "soft-kvm-server"),
            ("soft-kvm-security", "soft-kvm-discovery"),
            ("soft-kvm-server", "soft-kvm-client"),
            ("soft-kvm-server", "soft-kvm-platform-linux"),
            ("soft-kvm-server", "soft-kvm-testkit"),
        ] {
            assert_eq!(
                package(name, &[(dependency, None)]).len(),
                1,
                "{name} -> {dependency}"
            );
            assert_eq!(
                package(name, &[(dependency, Some("dev"))]).len(),
                usize::from(dependency != "soft-kvm-testkit"),
                "{name} -> {dependency} in tests"
            );
        }
    }

    #[test]
    fn downwards_is_allowed() {
        let rows = [
            ("soft-kvm-video", "soft-kvm-core"),
            ("soft-kvm-server", "soft-kvm-platform"),
            ("soft-kvm-tests", "soft-kvm-client"),
        ];
        for (name, dependency) in rows {
            assert_eq!(package(name, &[(dependency, None)]), Vec::<String>::new());
        }
    }

    #[test]
    fn unknown_members_are_refused() {
        assert_eq!(package("soft-kvm-extra", &[]).len(), 1);
    }

    #[test]
    fn pure_crates_stay_pure() {
        for dependency in ["smol", "tokio", "libc", "rand"] {
            assert_eq!(
                package("soft-kvm-protocol", &[(dependency, None)]).len(),
                1,
                "{dependency}"
            );
        }
        assert_eq!(
            package("soft-kvm-protocol", &[("smol", Some("dev"))]).len(),
            1
        );
        assert_eq!(
            package("soft-kvm-protocol", &[("proptest", Some("dev"))]).len(),
            0
        );
        assert_eq!(package("soft-kvm-protocol", &[("ring", None)]).len(), 0);
    }

    #[test]
    fn fences_hold() {
        for (name, dependency) in [
            ("soft-kvm-monitoring", "smol"),
            ("soft-kvm-service", "smol"),
            ("soft-kvm-server", "tokio"),
            ("soft-kvm-server", "drm"),
            ("soft-kvm-client", "evdevil"),
            ("soft-kvm-server", "openh264-sys2"),
            ("soft-kvm-discovery", "rustls"),
        ] {
            assert_eq!(
                package(name, &[(dependency, None)]).len(),
                1,
                "{name} -> {dependency}"
            );
        }
        for (name, dependency) in [
            ("soft-kvm-service", "async-io"),
            ("soft-kvm-server", "smol"),
            ("soft-kvm-platform-linux", "nix"),
        ] {
            assert_eq!(
                package(name, &[(dependency, None)]).len(),
                0,
                "{name} -> {dependency}"
            );
        }
    }
}
