//! The interfaces of the peers that generate code. tonic's is described by hand, so that `protoc` is not needed.

fn main() {
    let method = |name: &str, route: &str, asked: &str, answered: &str| {
        tonic_build::manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::grpc::{asked}"))
            .output_type(format!("crate::grpc::{answered}"))
            .codec_path("tonic_prost::ProstCodec")
            .build()
    };
    let service = tonic_build::manual::Service::builder()
        .package("bench")
        .name("Auth")
        .method(method("login", "Login", "Credentials", "Verdict"))
        .method(method("echo", "Echo", "Blob", "Blob"))
        .build();
    tonic_build::manual::Builder::new().compile(&[service]);
    varlink_generator::cargo_build("src/bench.auth.varlink");
}
