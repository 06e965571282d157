//! Prints the figures of forwarding in memory: `forward [--quick] [PART OF A NAME]`.

use vswitch_bench::forward;

fn main() {
    let (options, names): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    let quick = options.iter().any(|option| option == "--quick");
    let name = names.first().map_or("", String::as_str);
    forward::run(quick, name, |figure| println!("{figure}"));
}
