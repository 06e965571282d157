//! `vswitchctl docker plugin`: the managed plugin, made from this program.
//!
//! ```text
//! dockerd ─ /run/docker/plugins/ID/vswitch.sock ─> relay, in a container ─ api.sock.swarm/s ─> vswitchd
//! ```
//! A managed plugin is a root file system and a description of it, which Docker takes as one archive. Ours has this program and the
//! libraries that are loaded into it now, so it runs wherever this program does; a static one needs none.

use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
};

use hyper::{Method, StatusCode, body::Bytes};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::done;
use crate::{
    attach::target::no_docker,
    client::{Client, ClientError, exchange_as},
};
use vswitch_model::{Error, ErrorKind, attach::swarm_socket_path};

/// The socket's name, which is of no matter to Docker: the driver has the name of the plugin.
const SOCKET: &str = "vswitch.sock";

/// Where the container sees the folder of vswitchd's socket.
const FOLDER: &str = "/run/vswitch";

/// Seconds in which the plugin's socket must be there.
const ENABLE: u32 = 30;

/// A name of a plugin: of an image, with its tag. A driver is called so in `docker network create -d`.
pub(super) fn name(text: &str) -> Result<String, String> {
    let (bare, tag) = text.split_once(':').unwrap_or((text, "latest"));
    let is_legal = |part: &str| {
        let first = part.bytes().next();
        first.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte))
    };
    match is_legal(bare) && is_legal(tag) {
        true => Ok(format!("{bare}:{tag}")),
        false => Err("use small letters, digits, '_', '.' and '-', like vswitch:latest".into()),
    }
}

/// The used fields of a plugin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    enabled: bool,
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    description: String,
}

/// What ours are described as, before the version.
const DESCRIPTION: &str = "networks of vswitchd for a swarm";

/// Makes the plugin and enables it.
pub(super) async fn make(
    client: &Client,
    engine: &Path,
    name: &str,
    json: bool,
) -> Result<String, ClientError> {
    client.status().await?;
    let socket = swarm_socket_path(client.socket());
    if !socket.exists() {
        let why = "vswitchd does not serve Docker: set enabled = true below [docker] in net.toml, and restart vswitchd";
        return Err(Error::conflict(why).into());
    }
    let there = find(engine, name).await?;
    if there.as_ref().is_some_and(|it| !it.config.description.starts_with(DESCRIPTION)) {
        let why = format!("Docker has a plugin {name} that is not ours: choose another name with --name");
        return Err(Error::conflict(why).into());
    }
    if there.is_none() {
        let archive = archive(&socket).map_err(Error::from)?;
        ask(engine, Method::POST, &format!("/plugins/create?name={name}"), archive).await?;
    }
    if there.as_ref().is_none_or(|it| !it.enabled) {
        let path = format!("/plugins/{name}/enable?timeout={ENABLE}");
        ask(engine, Method::POST, &path, Vec::new()).await?;
    }
    let said = if there.is_some() { "there already, and enabled" } else { "made and enabled" };
    Ok(done(
        json,
        format_args!(
            "plugin {name} is {said}. On each other host of the swarm the same; then, on a manager:\n\
             docker network create -d {name} --attachable blue"
        ),
    ))
}

/// Removes the plugin.
pub(super) async fn remove(engine: &Path, name: &str, json: bool) -> Result<String, ClientError> {
    let Some(there) = find(engine, name).await? else {
        return Ok(done(json, format_args!("Docker has no plugin {name}")));
    };
    if there.enabled {
        ask(engine, Method::POST, &format!("/plugins/{name}/disable"), Vec::new()).await?;
    }
    ask(engine, Method::DELETE, &format!("/plugins/{name}"), Vec::new()).await?;
    Ok(done(json, format_args!("plugin {name} removed")))
}

async fn find(engine: &Path, name: &str) -> Result<Option<Plugin>, Error> {
    match ask(engine, Method::GET, &format!("/plugins/{name}/json"), Vec::new()).await {
        Ok(body) => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| Error::internal(format!("cannot parse Docker's answer about {name}: {error}"))),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ask(engine: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, Error> {
    let answer = exchange_as(engine, method, path, "application/x-tar", body.into()).await;
    let (status, body) =
        answer.map_err(|error| no_docker(engine, "or name its socket with --engine", error))?;
    if status.is_success() {
        return Ok(body);
    }
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    };
    let message = serde_json::from_slice::<Value>(&body).ok();
    let message = message.as_ref().and_then(|it| it["message"].as_str()).unwrap_or("no reason is given");
    Err(Error::new(kind, format!("Docker refuses: {message}")))
}

/// The plugin as Docker takes it.
fn archive(socket: &Path) -> io::Result<Vec<u8>> {
    let program = env::current_exe()?;
    let loaded = libraries(&fs::read_to_string("/proc/self/maps")?, &program);
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |path: String, mode, text: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, path, text)
    };
    put("config.json".into(), 0o644, config(socket, loader(&loaded).as_deref()).to_string().as_bytes())?;
    put("rootfs/bin/vswitchctl".into(), 0o755, &fs::read(&program)?)?;
    for library in &loaded {
        let text = fs::read(library)?;
        for name in names(library)? {
            put(format!("rootfs/lib/{name}"), 0o755, &text)?;
        }
    }
    archive.into_inner()
}

/// The files of libraries that a /proc/PID/maps has, without the program itself.
fn libraries(maps: &str, program: &Path) -> BTreeSet<PathBuf> {
    let files = maps.lines().filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])));
    let is_library = |path: &PathBuf| {
        path != program && path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))
    };
    files.filter(is_library).collect()
}

/// The names that a library is looked for by: its file's, and those of links to it beside it.
fn names(library: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let Some(folder) = library.parent() else { return Ok(names) };
    let file = library.file_name().unwrap_or_default();
    names.insert(file.to_string_lossy().into_owned());
    for entry in fs::read_dir(folder)?.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(file)) {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The name of the program that loads libraries, if there is one among them.
fn loader(libraries: &BTreeSet<PathBuf>) -> Option<String> {
    let names = libraries.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    names.into_iter().find(|name| name.starts_with("ld-") || name.starts_with("ld."))
}

/// The plugin's description.
fn config(socket: &Path, loader: Option<&str>) -> Value {
    // Called by its name, the loader needs no file where the program expects it.
    let before = loader.iter().flat_map(|it| [format!("/lib/{it}"), "--library-path".into(), "/lib".into()]);
    let file = socket.file_name().unwrap_or_default().to_string_lossy();
    let relay = ["/bin/vswitchctl", "docker", "relay"].map(str::to_owned);
    let places = [format!("/run/docker/plugins/{SOCKET}"), format!("{FOLDER}/{file}")];
    json!({
        "description": format!("{DESCRIPTION}, {}", env!("CARGO_PKG_VERSION")),
        "documentation": "",
        "entrypoint": before.chain(relay).chain(places).collect::<Vec<_>>(),
        "interface": {
            "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
            "socket": SOCKET,
        },
        "network": { "type": "none" },
        // The folder, not the socket: that is another one when vswitchd has restarted.
        "mounts": [{
            "name": "vswitch",
            "description": "vswitchd's socket",
            "source": socket.parent(),
            "destination": FOLDER,
            "type": "bind",
            "options": ["rbind", "ro"],
        }],
        "linux": { "capabilities": [] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_has_the_program_and_what_it_needs() {
        let archive = archive(Path::new("/run/vswitch/api.sock.swarm/s")).unwrap();
        let mut archive = tar::Archive::new(&*archive);
        let paths = archive.entries().unwrap().map(|it| it.unwrap().path().unwrap().into_owned());
        let paths: Vec<_> = paths.collect();
        assert_eq!(paths[..2], ["config.json", "rootfs/bin/vswitchctl"].map(PathBuf::from));
        let unique: BTreeSet<_> = paths.iter().collect();
        assert_eq!(unique.len(), paths.len());
    }

    #[test]
    fn a_program_with_libraries_is_started_by_their_loader() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 1   /usr/lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0   [heap]\n\
                    7f04-7f05 r--p 00000000 08:01 2   /usr/lib/ld-linux-x86-64.so.2\n\
                    5500-5501 r-xp 00000000 08:01 3   /usr/bin/x.so.y\n";
        let libraries = libraries(maps, Path::new("/usr/bin/x.so.y"));
        assert_eq!(libraries.len(), 2);
        let socket = Path::new("/run/vswitch/api.sock.swarm/s");
        let dynamic = config(socket, loader(&libraries).as_deref());
        assert_eq!(dynamic["entrypoint"][0], "/lib/ld-linux-x86-64.so.2");
        assert_eq!(dynamic["mounts"][0]["source"], "/run/vswitch/api.sock.swarm");
        let entrypoint = config(socket, None)["entrypoint"].clone();
        let expected =
            ["/bin/vswitchctl", "docker", "relay", "/run/docker/plugins/vswitch.sock", "/run/vswitch/s"];
        assert_eq!(entrypoint, json!(expected));
    }

    #[test]
    fn a_name_has_a_tag() {
        assert_eq!(name("vswitch").unwrap(), "vswitch:latest");
        assert_eq!(name("blue:1.0").unwrap(), "blue:1.0");
        for bad in ["", "A", "a/b?c", "a:", ":b", "a b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
