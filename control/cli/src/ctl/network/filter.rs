//! `--filter`: selects networks.

use jiff::{SignedDuration, Timestamp};

use vswitch_model::{
    Driver, Error,
    api::{Network, Prune, has_label},
    is_predefined,
};

/// The filter of `network ls`. Any value of a key matches, except that every label must; and all keys must match.
#[derive(Debug, Default)]
pub(super) struct ListFilter(Vec<(String, String)>);

/// The filter of `network prune`.
#[derive(Debug, Default)]
pub(super) struct PruneFilter(pub(super) Prune);

const LIST_KEYS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

impl ListFilter {
    pub(super) fn parse(pairs: &[(String, String)]) -> Result<Self, Error> {
        for (key, value) in pairs {
            let is_legal = match key.as_str() {
                "dangling" => matches!(value.as_str(), "true" | "false" | "1" | "0"),
                "type" => matches!(value.as_str(), "custom" | "builtin"),
                key if LIST_KEYS.contains(&key) => true,
                key => {
                    let known = LIST_KEYS.join(", ");
                    return Err(Error::invalid(format!("invalid filter '{key}': use one of {known}")));
                }
            };
            if !is_legal {
                return Err(Error::invalid(format!("invalid filter '{key}={value}'")));
            }
        }
        Ok(Self(pairs.to_vec()))
    }

    pub(super) fn wants(&self, network: &Network) -> bool {
        let values = |key: &str| -> Vec<&str> {
            self.0.iter().filter(|pair| pair.0 == key).map(|pair| pair.1.as_str()).collect()
        };
        let any = |key: &str, fits: &dyn Fn(&str) -> bool| {
            let values = values(key);
            values.is_empty() || values.into_iter().any(fits)
        };
        let spec = &network.spec;
        let is_builtin = is_predefined(spec.name.as_str());
        let is_used = is_builtin || !network.endpoints.is_empty();
        any("name", &|text| spec.name.as_str().contains(text))
            && any("id", &|text| network.id().as_str().starts_with(text))
            && any("driver", &|text| text.parse::<Driver>().is_ok_and(|driver| driver == spec.driver()))
            && any("scope", &|text| text.parse() == Ok(network.scope))
            && any("type", &|text| (text == "builtin") == is_builtin)
            && any("dangling", &|text| matches!(text, "true" | "1") != is_used)
            && values("label").into_iter().all(|label| has_label(spec, label))
    }
}

impl PruneFilter {
    pub(super) fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<Self, Error> {
        let mut prune = Prune::default();
        for (key, value) in pairs {
            match key.as_str() {
                "label" => prune.labels.push(value.clone()),
                "label!" => prune.not_labels.push(value.clone()),
                "until" => prune.until = Some(moment(value, now)?),
                key => {
                    let what = format!("invalid filter '{key}': use one of label, label!, until");
                    return Err(Error::invalid(what));
                }
            }
        }
        Ok(Self(prune))
    }
}

/// A time in RFC 3339, in seconds since 1970, or as a duration ago: `10m`, `1h30m`.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Error> {
    let moment = text.parse().ok().or_else(|| Timestamp::from_second(text.parse().ok()?).ok());
    let ago = || now.checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    moment.or_else(ago).ok_or_else(|| {
        Error::invalid(format!(
            "invalid filter 'until={text}': write 2026-01-31T12:00:00Z, or 24h for a day ago"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch_model::{NetworkSpec, Scope};

    fn network(name: &str) -> Network {
        let mut spec = NetworkSpec::plain(name.parse().unwrap());
        spec.labels.insert("team".into(), "a".into());
        Network {
            scope: Scope::Local,
            declared: false,
            ports: vec![],
            macs: 0,
            endpoints: vec![],
            usage: vec![],
            warnings: vec![],
            spec,
        }
    }

    fn wants(name: &str, filters: &[(&str, &str)]) -> bool {
        let pairs: Vec<_> = filters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        ListFilter::parse(&pairs).unwrap().wants(&network(name))
    }

    #[test]
    fn filters_fit_as_dockers_do() {
        for (filters, expected) in [
            (&[][..], true),
            (&[("name", "lu")], true),
            (&[("name", "red")], false),
            (&[("name", "red"), ("name", "blue")], true),
            (&[("name", "blue"), ("driver", "overlay")], false),
            (&[("driver", "bridge"), ("scope", "local")], true),
            (&[("scope", "swarm")], false),
            (&[("label", "team"), ("label", "team=a")], true),
            (&[("label", "team"), ("label", "team=b")], false),
            (&[("type", "custom")], true),
            (&[("type", "builtin")], false),
            (&[("dangling", "true")], true),
            (&[("dangling", "false")], false),
            (&[("id", network("blue").id().short())], true),
        ] {
            assert_eq!(wants("blue", filters), expected, "{filters:?}");
        }
        assert!(wants("host", &[("type", "builtin"), ("dangling", "false")]));
        let error = ListFilter::parse(&[("colour".into(), "red".into())]).unwrap_err().sentence;
        assert_eq!(
            error,
            "invalid filter 'colour': use one of dangling, driver, id, label, name, scope, type"
        );
        assert!(ListFilter::parse(&[("dangling".into(), "maybe".into())]).is_err());
    }

    #[test]
    fn moments_are_told_in_three_ways() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        for text in ["2026-01-01T00:00:00Z", "1767225600", "24h"] {
            assert_eq!(moment(text, now).unwrap().to_string(), "2026-01-01T00:00:00Z", "{text}");
        }
        assert!(moment("yesterday", now).unwrap_err().sentence.contains("'until=yesterday'"));
        let pairs = [("label!".to_owned(), "keep".to_owned())];
        assert_eq!(PruneFilter::parse(&pairs, now).unwrap().0.not_labels, ["keep"]);
        assert!(PruneFilter::parse(&[("name".into(), "x".into())], now).is_err());
    }
}
