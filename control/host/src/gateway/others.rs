//! The shared chain of iptables, which may drop what our table accepts.
//!
//! A packet traverses the chains of all tables, and any of them may drop it. Docker sets the policy of iptables' chain
//! FORWARD to drop, so no packet of ours would pass a host that runs dockerd. In that case our gateways get two rules at
//! the end of the chain, where Docker, podman and libvirt have theirs:
//!
//! ```text
//! chain FORWARD { type filter hook forward; policy drop;
//!     jump DOCKER-USER …                     rules of others come first, and what they drop is dropped
//!     iifname "vg-*" accept comment vswitch  \  only what would have met the policy meets ours,
//!     oifname "vg-*" accept comment vswitch  /  and our own table has its say as well
//! }
//! ```
//!
//! They match every gateway with a default name, so networks come and go without changes to the chain; a gateway whose
//! network names it has two rules of its own.
//!
//! iptables understands and lists these rules. Chains of other names belong to their owners: they are reported and left
//! alone.

use std::{collections::BTreeSet, fmt};

use nftables::{
    expr::MetaKey,
    schema::{NfCmd, NfListObject, NfObject, Nftables, Rule},
    stmt::Statement,
    types::NfFamily,
};
use serde_json::{Value, json};

use super::{
    GatewayError, Outside, firewalld, nft,
    rules::{TABLE, equal, meta, word},
};
use vswitch_model::ifname::GATEWAY_PREFIX;

/// Comment that marks our rules among those of others.
const COMMENT: &str = "vswitch";

/// The chains of all tables, as listed by `nft -j list chains`.
#[derive(Debug)]
pub(super) struct Chains(Value);

/// A foreign chain that sees forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    family: NfFamily,
    table: String,
    name: String,
    /// Whether its policy is to drop.
    drops: bool,
}

impl Chains {
    pub(super) fn read() -> Result<Self, GatewayError> {
        nft::list(&["chains"]).map(Self)
    }

    /// Whether our own table is there.
    pub(super) fn have_ours(&self) -> bool {
        objects(&self.0, "chain").any(|chain| chain["family"] == "inet" && chain["table"] == TABLE)
    }

    /// Foreign chains that see forwarded packets.
    pub(super) fn foreign(&self) -> impl Iterator<Item = Foreign> {
        objects(&self.0, "chain").filter_map(|chain| {
            let family = match chain["family"].as_str()? {
                "ip" => NfFamily::IP,
                "ip6" => NfFamily::IP6,
                "inet" => NfFamily::INet,
                _ => return None,
            };
            let (table, name) = (chain["table"].as_str()?.to_owned(), chain["name"].as_str()?.to_owned());
            let is_foreign = chain["hook"] == "forward" && chain["type"] == "filter" && table != TABLE;
            is_foreign.then(|| Foreign { family, table, name, drops: chain["policy"] == "drop" })
        })
    }
}

impl Foreign {
    /// Whether its policy is to drop.
    pub(super) fn drops(&self) -> bool {
        self.drops
    }

    /// Whether it is the shared chain of iptables.
    pub(super) fn is_shared(&self) -> bool {
        let is_iptables = self.table == "filter" && self.name == "FORWARD";
        is_iptables && matches!(self.family, NfFamily::IP | NfFamily::IP6)
    }

    /// Whether it is firewalld's.
    pub(super) fn is_firewallds(&self) -> bool {
        self.family == NfFamily::INet && self.table == firewalld::TABLE
    }

    /// Sets the rules that `outsides` need in its chain. Returns the id of the process that has changed something.
    pub(super) fn amend(&self, outsides: &[Outside]) -> Result<Option<u32>, GatewayError> {
        let listed = nft::list(&["chain", self.family(), &self.table, &self.name])?;
        let commands = self.amendment(&listed, outsides);
        if commands.is_empty() {
            return Ok(None);
        }
        nft::apply(&Nftables { objects: commands.into() }).map(Some)
    }

    /// Commands that bring the chain, which has the rules of `listed`, up to date.
    fn amendment(&self, listed: &Value, outsides: &[Outside]) -> Vec<NfObject<'static>> {
        let mut missing = self.wanted(outsides);
        let mut commands = Vec::new();
        for rule in objects(listed, "rule").filter(|rule| rule["comment"] == COMMENT) {
            match missing.iter().position(|wanted| json!(wanted.expr) == rule["expr"]) {
                Some(there) => drop(missing.remove(there)),
                None => {
                    let handle = rule["handle"].as_u64().and_then(|handle| u32::try_from(handle).ok());
                    let rule = Rule { handle, ..self.rule(Vec::new()) };
                    commands.push(NfObject::CmdObject(NfCmd::Delete(NfListObject::Rule(rule))));
                }
            }
        }
        let missing =
            missing.into_iter().map(|rule| NfObject::CmdObject(NfCmd::Add(NfListObject::Rule(rule))));
        commands.extend(missing);
        commands
    }

    fn wanted(&self, outsides: &[Outside]) -> Vec<Rule<'static>> {
        let patterns = if self.drops { patterns(outsides) } else { BTreeSet::new() };
        let rules = patterns.into_iter().flat_map(|pattern| {
            [MetaKey::Iifname, MetaKey::Oifname]
                .map(|key| self.rule(vec![equal(meta(key), word(pattern.clone())), Statement::Accept(None)]))
        });
        rules.collect()
    }

    fn rule(&self, statements: Vec<Statement<'static>>) -> Rule<'static> {
        Rule {
            family: self.family,
            table: self.table.clone().into(),
            chain: self.name.clone().into(),
            expr: statements.into(),
            comment: Some(COMMENT.into()),
            ..Rule::default()
        }
    }

    fn family(&self) -> &'static str {
        match self.family {
            NfFamily::IP => "ip",
            NfFamily::IP6 => "ip6",
            _ => "inet",
        }
    }
}

/// As nft(8) writes it: `ip filter FORWARD`.
impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family(), self.table, self.name)
    }
}

/// Patterns of the names of gateways' interfaces, for nft(8).
pub(super) fn patterns(outsides: &[Outside]) -> BTreeSet<String> {
    outsides.iter().filter(|outside| outside.is_gateway()).map(pattern).collect()
}

/// The same, with the host's interfaces in internal networks.
pub(super) fn interfaces(outsides: &[Outside]) -> BTreeSet<String> {
    outsides.iter().filter(|outside| outside.is_gateway() || outside.internal).map(pattern).collect()
}

fn pattern(outside: &Outside) -> String {
    match outside.ifname.starts_with(GATEWAY_PREFIX) {
        true => format!("{GATEWAY_PREFIX}*"),
        false => outside.ifname.clone(),
    }
}

/// The objects of one kind in a listing.
fn objects<'a>(listing: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    listing["nftables"].as_array().into_iter().flatten().filter_map(move |object| object.get(kind))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn outside(ifname: &str) -> Outside {
        Outside {
            ifname: ifname.into(),
            internal: false,
            subnets: vec!["10.9.0.0/24".parse().unwrap()],
            masquerade: true,
            published: Vec::new(),
            tunnels: Arc::default(),
        }
    }

    /// What nft 1.0.6 shows beside Docker 20.10.
    fn chains() -> Chains {
        Chains(json!({ "nftables": [
            { "metainfo": { "version": "1.0.6" } },
            { "chain": { "family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 7 } },
            { "chain": { "family": "ip", "table": "filter", "name": "FORWARD", "handle": 6, "type": "filter",
                         "hook": "forward", "prio": 0, "policy": "drop" } },
            { "chain": { "family": "inet", "table": "mine", "name": "forward", "handle": 1, "type": "filter",
                         "hook": "forward", "prio": 0, "policy": "drop" } },
            { "chain": { "family": "inet", "table": "vswitch", "name": "forward", "handle": 29, "type": "filter",
                         "hook": "forward", "prio": 0, "policy": "accept" } },
        ]}))
    }

    fn listed(rules: &[(&str, u64, Value)]) -> Value {
        let rules = rules.iter().map(|(comment, handle, expr)| {
            json!({ "rule": { "comment": comment, "handle": handle, "expr": expr } })
        });
        json!({ "nftables": rules.collect::<Vec<_>>() })
    }

    fn accept(key: &str, ifname: &str) -> Value {
        json!([{ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": ifname } }, { "accept": null }])
    }

    #[test]
    fn the_chain_that_docker_makes_drop_is_found() {
        let foreign: Vec<_> = chains().foreign().collect();
        let found: Vec<_> = foreign.iter().map(|it| (it.to_string(), it.drops(), it.is_shared())).collect();
        assert_eq!(
            found,
            [("ip filter FORWARD".into(), true, true), ("inet mine forward".into(), true, false)]
        );
        assert!(chains().have_ours());
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_too_much_is_deleted() {
        let chain = chains().foreign().next().unwrap();
        let commands = |listed: &Value, outsides: &[Outside]| json!(chain.amendment(listed, outsides));
        let first = commands(&listed(&[("mine", 1, accept("iifname", "gone"))]), &[outside("blue")]);
        assert_eq!(first.as_array().unwrap().len(), 2);
        assert_eq!(first[0]["add"]["rule"]["expr"], accept("iifname", "blue"));
        assert_eq!(first[1]["add"]["rule"]["comment"], "vswitch");

        let there = [
            ("vswitch", 15, accept("iifname", "blue")),
            ("vswitch", 16, accept("oifname", "blue")),
            ("vswitch", 17, accept("iifname", "gone")),
        ];
        let then = commands(&listed(&there), &[outside("blue")]);
        assert_eq!(then.as_array().unwrap().len(), 1);
        assert_eq!(then[0]["delete"]["rule"]["handle"], 17);
        assert_eq!(commands(&listed(&there[..2]), &[outside("blue")]), json!([]));
        assert_eq!(commands(&listed(&there), &[]).as_array().unwrap().len(), 3);

        // All default names share one pattern.
        let ours = [outside("vg-8759e37fdd78"), outside("vg-0a1b2c3d4e5f")];
        let both = commands(&listed(&[]), &ours);
        assert_eq!(both.as_array().unwrap().len(), 2);
        assert_eq!(both[0]["add"]["rule"]["expr"], accept("iifname", "vg-*"));

        // Rules of a former version, which matched the host's ends of veth pairs as well, are removed.
        let former =
            listed(&[("vswitch", 3, accept("iifname", "vs-*")), ("vswitch", 4, accept("oifname", "vs-*"))]);
        let followed = commands(&former, &ours);
        assert_eq!(followed.as_array().unwrap().len(), 4);
        for (index, handle) in [(0, 3), (1, 4)] {
            assert_eq!(followed[index]["delete"]["rule"]["handle"], handle);
        }

        // A chain that accepts needs no rules of ours.
        let accepts = Foreign { drops: false, ..chain.clone() };
        assert_eq!(accepts.amendment(&listed(&there[..1]), &[outside("blue")]).len(), 1);
    }
}
