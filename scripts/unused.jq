# A line for each dependency that its package does not use. Input: cargo's messages from a run over all targets with
# `unused_crate_dependencies` on. $workspace: `cargo metadata --no-deps`.
#
# The lint judges one compilation at a time, and a test need not use what the library does. So a dependency is unused if the
# library and every program report it, and a dev-dependency if every compilation that got it does: tests, benches, examples.
# An optional dependency whose feature is off is not judged.

def is_program: any(.target.kind[]; . == "lib" or . == "bin" or . == "proc-macro");
def compilation: [.package_id, .target.kind[0], .target.name];

[inputs] as $messages
| [$messages[] | select(.reason == "compiler-artifact")] as $compiled
| [$messages[] | select(.reason == "compiler-message" and .message.code.code == "unused_crate_dependencies")
    | { at: compilation, extern: (.message.message | capture("`(?<name>[^`]+)` is unused").name) }] as $reports
| $workspace[0].packages[]
| . as $package
| [$compiled[] | select(.package_id == $package.id)] as $units
| if $units == [] then error("nothing of \(.name) was compiled") else . end
| [$units[] | select(is_program) | compilation] as $programs
| [$units[] | select(.profile.test or (is_program or .target.kind == ["custom-build"] | not))] as $tests
| [.dependencies[] | select(.kind == null) | .name] as $normal
| .dependencies[]
| .name as $name
| (.rename // $name | gsub("-"; "_")) as $extern
| [$reports[] | select(.extern == $extern and .at[0] == $package.id) | .at] as $unused
| if .kind == null and $programs - $unused == [] then
    "\($package.name) does not use \($name): delete it, or make it a dev-dependency if tests do"
  elif .kind == "dev" and ($normal | index($name) | not) and ($unused | length) == ($tests | length) then
    "no test of \($package.name) uses \($name): delete it"
  else empty end
