//! A media device's entities and how they are joined; which way a picture can take to a node.

use std::collections::BTreeMap;

/// A processing step: a receiver, a bridge, a scaler, a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entity {
    pub(super) id: u32,
    pub(super) name: String,
    /// A socket outside; nothing can be set on it.
    pub(super) connector: bool,
}

/// Where links end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pad {
    pub(super) id: u32,
    pub(super) entity: u32,
    pub(super) index: u32,
    /// Takes pictures; else it gives them.
    pub(super) sink: bool,
}

/// A way from pad to pad, by their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) source: u32,
    pub(super) sink: u32,
    pub(super) enabled: bool,
    /// Stays as it is.
    pub(super) immutable: bool,
}

/// Major and minor number of a device node.
pub(super) type Number = (u32, u32);

/// What the kernel tells about a media device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Graph {
    pub(super) entities: Vec<Entity>,
    pub(super) pads: Vec<Pad>,
    pub(super) links: Vec<Link>,
    /// Nodes and the entities that they stand for.
    pub(super) nodes: Vec<(Number, u32)>,
}

/// One link of a way, with the pads that it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) source: Pad,
    pub(super) sink: Pad,
    pub(super) enabled: bool,
}

/// Links that a way has to have enabled, then its hops: the lesser way is the better one.
type Cost = (u32, u32);

impl Graph {
    pub(super) fn entity_of(&self, node: Number) -> Option<u32> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(number, _)| *number == node)
            .map(|(_, entity)| *entity)
    }

    pub(super) fn node_of(&self, entity: u32) -> Option<Number> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|(_, of)| *of == entity)
            .map(|(number, _)| *number)
    }

    pub(super) fn name_of(&self, entity: u32) -> &str {
        let mut entities = self.entities.iter();
        let found = entities.find(|known| known.id == entity);
        found.map_or("?", |found| &found.name)
    }

    fn pad(&self, id: u32) -> Option<Pad> {
        self.pads.iter().find(|pad| pad.id == id).copied()
    }

    /// The links between pads that both exist, but for those from sockets.
    fn hops(&self) -> Vec<(Hop, bool)> {
        let connector = |id: u32| {
            self.entities
                .iter()
                .any(|known| known.id == id && known.connector)
        };
        let hop = |link: &Link| {
            let (source, sink) = (self.pad(link.source)?, self.pad(link.sink)?);
            let fits = !source.sink && sink.sink && !connector(source.entity);
            let enabled = link.enabled;
            fits.then_some((
                Hop {
                    source,
                    sink,
                    enabled,
                },
                link.immutable,
            ))
        };
        self.links.iter().filter_map(hop).collect()
    }

    /// The way from a source of pictures to an entity: the one for which the fewest links have to be enabled, among
    /// those the shortest. `None` if no source can be joined to it.
    pub(super) fn way(&self, to: u32) -> Option<Vec<Hop>> {
        let hops = self.hops();
        let usable: Vec<Hop> = hops
            .iter()
            .filter(|(hop, immutable)| hop.enabled || !immutable)
            .map(|(hop, _)| *hop)
            .collect();
        // The best way from each entity to the node: its cost and first hop. No way visits an entity twice.
        let mut best: BTreeMap<u32, (Cost, Option<Hop>)> = BTreeMap::from([(to, ((0, 0), None))]);
        for _ in 0..self.entities.len() {
            let mut changed = false;
            for hop in &usable {
                let Some(((toggles, length), _)) = best.get(&hop.sink.entity) else {
                    continue;
                };
                let cost = (toggles + u32::from(!hop.enabled), length + 1);
                if best
                    .get(&hop.source.entity)
                    .is_none_or(|(known, _)| cost < *known)
                {
                    best.insert(hop.source.entity, (cost, Some(*hop)));
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        // Where pictures begin: nothing but sockets leads there.
        let is_source = |entity: u32| {
            !hops.iter().any(|(hop, _)| hop.sink.entity == entity) && !self.waits(entity)
        };
        let from = best
            .iter()
            .filter(|(entity, (_, hop))| hop.is_some() && is_source(**entity))
            .min_by_key(|(_, (cost, _))| *cost)
            .map(|(entity, _)| *entity)?;
        let mut way = Vec::new();
        let mut at = from;
        while let Some((_, Some(hop))) = best.get(&at) {
            way.push(*hop);
            at = hop.sink.entity;
            if way.len() > self.links.len() {
                return None;
            }
        }
        Some(way)
    }

    /// Whether an entity takes pictures and nothing at all leads to it.
    fn waits(&self, entity: u32) -> bool {
        let mut sinks = self
            .pads
            .iter()
            .filter(|pad| pad.entity == entity && pad.sink)
            .peekable();
        sinks.peek().is_some()
            && !sinks.any(|pad| self.links.iter().any(|link| link.sink == pad.id))
    }

    /// The links to switch for a way, in order: `true` is on. A pad takes from one link at a time, so others go first.
    pub(super) fn switches(&self, way: &[Hop]) -> Vec<(Hop, bool)> {
        let hops = self.hops();
        let mut switches = Vec::new();
        for wanted in way.iter().filter(|hop| !hop.enabled) {
            let rivals = hops
                .iter()
                .filter(|(hop, immutable)| hop.enabled && !immutable && hop.sink == wanted.sink);
            switches.extend(rivals.map(|(hop, _)| (*hop, false)));
            switches.push((*wanted, true));
        }
        switches
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Entities by number; each has the sink pad 100 n and the source pad 100 n + 1, but for the `sources`, which have
    /// no sink pad. The links are (from, to, enabled, immutable).
    fn graph(entities: u32, sources: &[u32], links: &[(u32, u32, bool, bool)]) -> Graph {
        let mut graph = Graph::default();
        for id in 0..entities {
            graph.entities.push(Entity {
                id,
                name: format!("entity {id}"),
                connector: false,
            });
            let pad = |index: u32| Pad {
                id: id * 100 + index,
                entity: id,
                index,
                sink: index == 0,
            };
            if !sources.contains(&id) {
                graph.pads.push(pad(0));
            }
            graph.pads.push(pad(1));
            graph.nodes.push(((81, id), id));
        }
        for &(from, to, enabled, immutable) in links {
            graph.links.push(Link {
                source: from * 100 + 1,
                sink: to * 100,
                enabled,
                immutable,
            });
        }
        graph
    }

    fn entities(way: Option<Vec<Hop>>) -> Vec<u32> {
        let way = way.unwrap_or_default();
        let first = way.first().map(|hop| hop.source.entity);
        first
            .into_iter()
            .chain(way.iter().map(|hop| hop.sink.entity))
            .collect()
    }

    /// As the kernel's vimc is: sensors A and B with debayers, an input, a scaler, and its node.
    fn vimc(a: bool, b: bool, input: bool) -> Graph {
        let (sensor_a, sensor_b, debayer_a, debayer_b, entry, scaler, node) = (0, 1, 2, 3, 4, 5, 6);
        graph(
            7,
            &[sensor_a, sensor_b, entry],
            &[
                (sensor_a, debayer_a, true, true),
                (sensor_b, debayer_b, true, true),
                (debayer_a, scaler, a, false),
                (debayer_b, scaler, b, false),
                (entry, scaler, input, false),
                (scaler, node, true, true),
            ],
        )
    }

    #[test]
    fn what_is_enabled_wins_over_what_is_short() {
        for (a, b, input, wanted) in [
            (true, false, false, &[0, 2, 5, 6][..]),
            (false, true, false, &[1, 3, 5, 6]),
            (false, false, true, &[4, 5, 6]),
            (false, false, false, &[4, 5, 6]),
        ] {
            let graph = vimc(a, b, input);
            let way = graph.way(6).expect("a way");
            let switches = graph.switches(&way);
            assert_eq!(entities(Some(way)), wanted);
            assert_eq!(
                switches.len(),
                usize::from(!(a || b || input)),
                "{switches:?}"
            );
        }
    }

    #[test]
    fn a_pad_that_is_taken_is_freed_first() {
        // A bridge that takes from a mux without any input; a receiver could feed it instead.
        let links = [
            (0, 2, true, false),
            (1, 2, false, false),
            (2, 3, true, true),
        ];
        let graph = graph(4, &[1], &links);
        let way = graph.way(3).expect("a way");
        let switches: Vec<_> = graph
            .switches(&way)
            .iter()
            .map(|(hop, on)| (hop.source.entity, *on))
            .collect();
        assert_eq!(entities(Some(way)), [1, 2, 3]);
        assert_eq!(switches, [(0, false), (1, true)]);
    }

    #[test]
    fn what_cannot_be_joined_has_no_way() {
        // A link that is off for good; an entity that waits for pictures itself.
        assert_eq!(graph(2, &[0], &[(0, 1, false, true)]).way(1), None);
        assert_eq!(graph(2, &[], &[(0, 1, true, true)]).way(1), None);
        assert_eq!(graph(1, &[0], &[]).way(0), None);
        assert_eq!(Graph::default().way(7), None);
    }

    #[test]
    fn a_socket_is_no_source_and_what_it_leads_to_is() {
        let mut graph = graph(3, &[0], &[(0, 1, true, true), (1, 2, true, true)]);
        graph.entities[0].connector = true;
        assert_eq!(entities(graph.way(2)), [1, 2]);
        assert_eq!(graph.name_of(1), "entity 1");
        assert_eq!(
            (graph.entity_of((81, 1)), graph.node_of(1)),
            (Some(1), Some((81, 1)))
        );
    }

    proptest! {
        /// Whatever a driver tells: circles, pads of nobody, links to themselves.
        #[test]
        fn any_graph_is_survived(
            links in proptest::collection::vec((0_u32..6, 0_u32..6, any::<bool>(), any::<bool>()), 0..20),
            sources in proptest::collection::vec(0_u32..6, 0..3),
        ) {
            let graph = graph(6, &sources, &links);
            for to in 0..7 {
                if let Some(way) = graph.way(to) {
                    prop_assert_eq!(way.last().map(|hop| hop.sink.entity), Some(to));
                    prop_assert!(way.windows(2).all(|pair| pair[0].sink.entity == pair[1].source.entity));
                    prop_assert!(way.len() <= 6);
                    graph.switches(&way);
                }
            }
        }
    }
}
