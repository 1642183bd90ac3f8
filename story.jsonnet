// The network that Soft KVM runs when nothing else is asked for. docs/STORY.md explains every key.
//
// To change something, write only what differs into a file of your own:
//
//     (import 'default.jsonnet') + { video+: { bitrate_kbps: 8000 } }
//
// check it with `soft-kvm-server story check FILE` and start the server with `--story FILE`.
{
  capture: {
    kind: 'source',
    driver: 'auto',
    device: null,
    connector: null,
    gpu: 'auto',
    edid: null,
    size: null,
    fps: 30,
    content: 'typing',
  },
  video: {
    kind: 'encoder',
    inputs: ['capture'],
    driver: 'auto',
    device: null,
    bitrate_kbps: 6000,
    refresh_ms: 1000,
    retry_s: 30,
    intra_refresh: 0,
  },
  rtp: {
    kind: 'transport',
    inputs: ['video'],
    mtu: 1200,
    pacing_mbps: 200,
  },
  input: {
    kind: 'sink',
    driver: 'auto',
    device: null,
    lease_ms: 250,
  },
  control: {
    kind: 'control',
    port: 7755,
    name: null,
    max_clients: 8,
    allow_routed: false,
    allow: [],
    deny: [],
    handover: 'still',
    clipboard: 'both',
    pair_button: null,
    pair_key: null,
    pair_screen: null,
  },
  discovery: {
    kind: 'discovery',
    inputs: ['control'],
    enabled: true,
  },
  metrics: {
    kind: 'metrics',
    address: '127.0.0.1',
    port: 9090,
    enabled: true,
  },
}
