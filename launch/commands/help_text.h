// What --help prints: a screen of at most 100 columns, whichever version of CLI11 read the options.
//
//     help_text(app, "limbeck eval")
//
//     Usage: limbeck eval [OPTIONS] MODEL [MORE...]
//
//     Options:
//       --logits OUT.h5           Write /tokens [T] and /logits [T,V] (needs --tokens)
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace limbeck::launch {

/// Of the command `name`, or of the program where `app` has commands.
std::string help_text(const CLI::App& app, const std::string& name);

}  // namespace limbeck::launch
