//! `/metrics` and Prometheus.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use soft_kvm_tests::media::{http_get, http_get_as};
use soft_kvm_tests::stage::port_pair;
use soft_kvm_tests::{Need, Server, Stage, TESTCARD, Test, until};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "metrics::promtool_accepts_them",
        needs: &[Need::Program("promtool"), Need::Program("sh")],
        run: promtool_accepts_them,
    },
    Test {
        name: "metrics::prometheus_answers_the_queries_of_the_readme",
        needs: &[Need::Program("prometheus")],
        run: prometheus_answers_the_queries_of_the_readme,
    },
    Test {
        name: "metrics::only_requests_for_this_machine_are_answered",
        needs: &[],
        run: only_requests_for_this_machine_are_answered,
    },
    Test {
        name: "metrics::promtool_accepts_the_configuration",
        needs: &[Need::Program("promtool")],
        run: promtool_accepts_the_configuration,
    },
];

const LIMIT: Duration = Duration::from_secs(25);

/// Names that users know, though promtool would rather have seconds and bytes.
const PRESCRIBED: [&str; 4] = [
    "soft_kvm_connection_time_ms",
    "soft_kvm_input_latency_ms",
    "soft_kvm_memory_usage_mb",
    "soft_kvm_video_latency_ms",
];

/// The four histograms that the user's page asks for.
const HISTOGRAMS: [&str; 4] = [
    "soft_kvm_video_latency_ms",
    "soft_kvm_input_latency_ms",
    "soft_kvm_cpu_usage_percent",
    "soft_kvm_memory_usage_mb",
];

fn promtool_accepts_them(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let mut client = server.watch(stage, 4, &["--probe-input", "20"])?;
    stage.run("client", LIMIT, &mut client)?.success()?;
    let file = stage.write("metrics.txt", &server.metrics()?)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", "promtool check metrics < \"$0\""])
        .arg(&file);
    let checked = stage.run("promtool", LIMIT, &mut command)?.text();
    let complaints: BTreeSet<&str> = checked.lines().filter(|line| !line.is_empty()).collect();
    let expected =
        PRESCRIBED.map(|name| format!("{name} metric names should not contain abbreviated units"));
    ensure!(
        complaints == expected.iter().map(String::as_str).collect(),
        "{checked}"
    );
    Ok(())
}

/// A page whose name was made to lead to loopback gets nothing (DNS rebinding).
fn only_requests_for_this_machine_are_answered(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    let port = server.metrics_port()?;
    let own = server.text("name")?;
    for (host, status) in [
        ("127.0.0.1", 200),
        (own, 200),
        (&format!("{own}.local"), 200),
        ("evil.example", 403),
        (&format!("{own}.evil.example"), 403),
    ] {
        let (head, body) = http_get_as(port, &format!("{host}:{port}"), "/metrics")?;
        ensure!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{host}: {head}"
        );
        ensure!(
            body.contains("soft_kvm_") == (status == 200),
            "{host}: {body}"
        );
    }
    Ok(())
}

fn prometheus_answers_the_queries_of_the_readme(stage: &Stage) -> anyhow::Result<()> {
    let server = Server::start(stage, TESTCARD)?;
    server.pair(stage)?;
    let _client = stage.start(
        "client",
        &mut server.watch(stage, 60, &["--probe-input", "30"])?,
    )?;
    let configuration = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: soft-kvm\n    static_configs:\n      \
         - targets: ['127.0.0.1:{}']\n",
        server.metrics_port()?
    );
    let configuration = stage.write("prometheus.yml", &configuration)?;
    let port = port_pair()?;
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            stage.file("tsdb").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _prometheus = stage.start("prometheus", &mut command)?;
    for name in HISTOGRAMS {
        let query = format!("histogram_quantile(0.99, rate({name}_bucket[5m]))");
        until(&format!("{query} is a number"), LIMIT, || {
            // It may not listen yet.
            Ok(query_number(port, &query).is_ok_and(f64::is_finite))
        })?;
    }
    Ok(())
}

/// The first sample of an instant query.
fn query_number(port: u16, query: &str) -> anyhow::Result<f64> {
    let encoded = query
        .replace(' ', "%20")
        .replace('[', "%5B")
        .replace(']', "%5D");
    let (head, body) = http_get(port, &format!("/api/v1/query?query={encoded}"))?;
    ensure!(head.contains(" 200 "), "{head}");
    let start = body.find('{').context("no JSON")?;
    let answer = serde_json::Deserializer::from_str(body.get(start..).unwrap_or_default())
        .into_iter::<Value>()
        .next()
        .context("no JSON")??;
    let results = answer.pointer("/data/result").and_then(Value::as_array);
    let numbers = results.context("no result")?.iter().filter_map(|result| {
        let text = result.pointer("/value/1")?.as_str()?;
        text.parse::<f64>().ok()
    });
    // Series without an observation in the range have no quantile.
    numbers
        .into_iter()
        .find(|number| number.is_finite())
        .context("no number")
}

fn promtool_accepts_the_configuration(stage: &Stage) -> anyhow::Result<()> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring/prometheus/prometheus.yml");
    let mut command = Command::new("promtool");
    let checked = stage
        .run(
            "promtool",
            LIMIT,
            command.args(["check", "config"]).arg(file),
        )?
        .success()?;
    ensure!(checked.text().contains("SUCCESS"), "{}", checked.text());
    Ok(())
}
