//! What is answered on the control socket.

use super::{Agent, look::FOR_VIEWS, socket::Respond};
use crate::{
    protocol::{Refusal, Request, answer},
    status::Status,
};

impl Respond for Agent {
    async fn respond(&self, request: Request) -> String {
        match request {
            Request::Status => {
                // In turn with the pages: of what costs something one is made at a time, whoever asks.
                let told = async || Ok(answer(Ok(Status::of(&self.observe_all(FOR_VIEWS).await))).into());
                match self.flight.page("the control socket's status", told).await {
                    Ok(line) => String::from_utf8_lossy(&line).into_owned(),
                    Err(error) => answer::<()>(Err(Refusal::refused(error))),
                }
            }
            Request::RuleList => answer(Ok(self.list_rules())),
            Request::RuleAdd { rules, at, force } => answer(self.add_rules(rules, at, force)),
            Request::RuleDel { names, force } => answer(self.delete_rules(&names, force)),
            Request::RuleReplace { rules, default, force } => {
                answer(self.replace_rules(rules, default, force))
            }
            Request::RuleDefault { action, force } => answer(self.change_default(action, force)),
            Request::Reload { force } => answer(self.reload(force).await),
        }
    }
}
