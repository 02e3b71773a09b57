//! What an agent says of its rules.

use serde_json::Value;

use crate::agent::Agent;

/// Packets that the rule of this name matched.
pub fn packets(agent: &Agent, name: &str) -> u64 {
    rule(agent, name)["packets"].as_u64().expect("a count")
}

/// All that `umemd rule list` says of the rule of this name.
pub fn rule(agent: &Agent, name: &str) -> Value {
    let listing = agent.tell(&["rule", "list", "--json"]).json();
    let rules = listing["rules"].as_array().expect("a list");
    let found = rules.iter().find(|rule| rule["name"] == name);
    found.unwrap_or_else(|| panic!("no rule {name}: {listing}")).clone()
}

/// The names of all rules, in order.
pub fn names(agent: &Agent) -> Vec<String> {
    let listing = agent.tell(&["rule", "list", "--json"]).json();
    let rules = listing["rules"].as_array().expect("a list");
    rules.iter().map(|rule| rule["name"].as_str().expect("a name").to_owned()).collect()
}
