//! Every tool from outside: its version and its hash. To move one, change it here and run `setup`.

/// A program that `cargo install` builds; its lock file pins what it is built from.
#[derive(Debug)]
pub(crate) struct CargoPin {
    /// The package and its folder below the tools.
    pub(crate) name: &'static str,
    /// The program it installs.
    pub(crate) program: &'static str,
    /// The exact version.
    pub(crate) version: &'static str,
    /// Measured on two cores, for the message.
    pub(crate) minutes: u32,
}

/// A program inside a Python wheel.
#[derive(Debug)]
pub(crate) struct WheelPin {
    /// The package.
    pub(crate) package: &'static str,
    /// The exact version.
    pub(crate) version: &'static str,
    /// Where the program is in the wheel.
    pub(crate) member: &'static str,
    /// Its file name below the tools.
    pub(crate) program: &'static str,
    /// The wheel of each architecture.
    pub(crate) wheels: &'static [ArchPin],
}

/// The hashes of one architecture's package.
#[derive(Debug)]
pub(crate) struct ArchPin {
    /// As `std::env::consts::ARCH` has it.
    pub(crate) arch: &'static str,
    /// SHA-256 (wheels) or SHA-512 (npm) of the package, in hex.
    pub(crate) package_hash: &'static str,
    /// SHA-256 of the file we take out of it, in hex.
    pub(crate) file_sha256: &'static str,
}

/// Links the programs in the kernel.
pub(crate) const BPF_LINKER: CargoPin =
    CargoPin { name: "bpf-linker", program: "bpf-linker", version: "0.10.3", minutes: 1 };

/// Licences, sources, duplicates and advisories of all dependencies.
pub(crate) const CARGO_DENY: CargoPin =
    CargoPin { name: "cargo-deny", program: "cargo-deny", version: "0.20.2", minutes: 2 };

/// Dependencies that are declared and not used.
pub(crate) const CARGO_MACHETE: CargoPin =
    CargoPin { name: "cargo-machete", program: "cargo-machete", version: "0.9.2", minutes: 1 };

/// Spelling, where there is no pip.
pub(crate) const TYPOS: CargoPin =
    CargoPin { name: "typos-cli", program: "typos", version: "1.52.0", minutes: 2 };

/// Spelling, prebuilt.
pub(crate) const TYPOS_WHEEL: WheelPin = WheelPin {
    package: "typos",
    version: "1.52.0",
    member: "typos-1.52.0.data/scripts/typos",
    program: "typos",
    wheels: &[
        ArchPin {
            arch: "x86_64",
            package_hash: "418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6",
            file_sha256: "38b0e6d0bede64fe28e9f5bbf7bb0e528ff69927dad372a2443468cb87fae64d",
        },
        ArchPin {
            arch: "aarch64",
            package_hash: "5e870133c7e9cace94183e4d638697004a1473e79abcd01b8f75e362049a9b5c",
            file_sha256: "86d51a975c0cfb2ee2c546995fce55497773984b00993537b421a7ecac8b6696",
        },
    ],
};

/// The DuckDB command line, as users have it.
pub(crate) const DUCKDB_CLI: WheelPin = WheelPin {
    package: "duckdb-cli",
    version: "1.5.6",
    member: "duckdb_cli/duckdb",
    program: "duckdb",
    wheels: &[
        ArchPin {
            arch: "x86_64",
            package_hash: "9797555bd39095d730eb0d0b3bf29e95e148c96a4cdce1e363f01c7bf7003a44",
            file_sha256: "61238cfbe9dfeaad4bcfcd8a48f6f7123dae2e9603aaadb1f77a4217aeb8980c",
        },
        ArchPin {
            arch: "aarch64",
            package_hash: "9b03301a14310a4ef7f86386e87b36954fe099ed762c8a81f94f7bd0ba073542",
            file_sha256: "c0ac0b79e243ee312b3af29c34ac0b94e518aa44c4345036d5d96c1c042c9d48",
        },
    ],
};

/// Boots the kernels of the matrix. Any version of the last years does, so the system's own is taken.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// The Debian package that has it.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-x86";

/// The Debian package of the guest's base programs.
pub(crate) const BUSYBOX_PACKAGE: &str = "busybox-static";

/// The npm package with `libduckdb.so` of DuckDB 1.5.6. The package for arm64 has no release of this version,
/// so arm64 builds DuckDB from source.
pub(crate) const LIBDUCKDB_PACKAGE: &str = "@duckdb/node-bindings-linux-x64@1.5.6-r.1";

/// Its hashes.
pub(crate) const LIBDUCKDB: ArchPin = ArchPin {
    arch: "x86_64",
    package_hash: "21772b64913a904a8cd19e30c1d5671811d7fdface4b7dd53cd0300d743f43e1\
                   6cf386f4e7c41ef78721ac208870d2651bc6375072145387817824315b998dd5",
    file_sha256: "3f4962cdd266eab2b479a5b5a4a6d063d279b2954ae814ed00385d553b747633",
};
