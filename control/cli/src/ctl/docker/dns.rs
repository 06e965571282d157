//! `vswitchctl docker dns`: the DNS servers in Docker's configuration file.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::super::done;
use crate::client::{Client, ClientError};
use vswitch_model::Error;

/// Puts the address of our server into the file, or takes it out.
pub(super) async fn execute(
    client: &Client,
    config: &Path,
    remove: bool,
    json: bool,
) -> Result<String, ClientError> {
    let dns = client.dns().await?;
    if !dns.enabled && !remove {
        let why = "names are not served: set enabled = true below [dns] in net.toml, and restart vswitchd";
        return Err(Error::conflict(why).into());
    }
    let before = read(config)?;
    let after = with_server(&before, dns.address, !remove).map_err(|what| {
        Error::invalid(format!("{}: {what}: correct it, or edit the file by hand", config.display()))
    })?;
    if after == before {
        let (file, server) = (config.display(), dns.address);
        return Ok(match remove {
            true => done(json, format_args!("{file} does not have {server}")),
            false => done(json, format_args!("{file} has {server} already")),
        });
    }
    write(config, &after).map_err(|error| unusable(config, &error))?;
    let next = "Docker reads it when it starts: restart Docker (systemctl restart docker), which starts its containers again";
    Ok(done(json, format_args!("{} written\n{next}", config.display())))
}

fn unusable(config: &Path, error: &io::Error) -> Error {
    Error::from(io::Error::new(error.kind(), format!("{}: {error}", config.display())))
}

/// The settings of a file; none if there is no file.
fn read(config: &Path) -> Result<Map<String, Value>, Error> {
    let text = match fs::read_to_string(config) {
        Ok(text) if text.trim().is_empty() => return Ok(Map::new()),
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(unusable(config, &error)),
    };
    serde_json::from_str(&text)
        .map_err(|error| Error::invalid(format!("{} is no JSON object: {error}", config.display())))
}

/// `settings` with `server` as the first of its DNS servers, or without it.
fn with_server(
    settings: &Map<String, Value>,
    server: IpAddr,
    wanted: bool,
) -> Result<Map<String, Value>, &'static str> {
    let (mut settings, server) = (settings.clone(), json!(server));
    let mut servers = match settings.remove("dns") {
        None => Vec::new(),
        Some(Value::Array(servers)) => servers,
        Some(_) => return Err("dns is no list of addresses"),
    };
    servers.retain(|it| *it != server);
    if wanted {
        servers.insert(0, server);
    }
    if !servers.is_empty() {
        settings.insert("dns".into(), servers.into());
    }
    Ok(settings)
}

/// Replaces a file as a whole, with the permissions that it has.
fn write(config: &Path, settings: &Map<String, Value>) -> io::Result<()> {
    let config = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    if let Some(folder) = config.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = config.with_extension("json.new");
    // The settings may hold the password of a proxy.
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(format!("{:#}\n", Value::Object(settings.clone())).as_bytes())?;
    let permissions = match fs::metadata(&config) {
        Ok(before) => before.permissions(),
        Err(_) => Permissions::from_mode(0o644),
    };
    file.set_permissions(permissions)?;
    fs::rename(new, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_comes_first_and_all_else_stays() {
        let server = "169.254.53.53".parse().unwrap();
        for (before, with, without) in [
            (json!({}), json!({ "dns": ["169.254.53.53"] }), json!({})),
            (
                json!({ "dns": ["192.0.2.1", "169.254.53.53"], "mtu": 1400 }),
                json!({ "dns": ["169.254.53.53", "192.0.2.1"], "mtu": 1400 }),
                json!({ "dns": ["192.0.2.1"], "mtu": 1400 }),
            ),
        ] {
            let before = before.as_object().unwrap();
            let set = with_server(before, server, true).unwrap();
            assert_eq!(Value::Object(set.clone()), with);
            assert_eq!(with_server(&set, server, true).unwrap(), set, "again it changes nothing");
            assert_eq!(Value::Object(with_server(&set, server, false).unwrap()), without);
        }
        let odd = json!({ "dns": "192.0.2.1" });
        assert!(with_server(odd.as_object().unwrap(), server, true).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole_and_what_is_no_json_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("docker/daemon.json");
        assert!(read(&config).unwrap().is_empty());
        write(&config, json!({ "a": 1 }).as_object().unwrap()).unwrap();
        fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
        write(&config, json!({ "a": 2 }).as_object().unwrap()).unwrap();
        assert_eq!(read(&config).unwrap()["a"], 2);
        assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&config, "{ a }").unwrap();
        assert!(read(&config).unwrap_err().sentence.contains("is no JSON object"));
    }
}
