//! `#[rpc]` and `#[derive(Typed)]` of pysecure-rpc, which gives them out again: use them from there.
#![warn(missing_docs)]

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Fields, FnArg, ItemFn, LitStr, Pat, ReturnType, parse_macro_input};

/// Has a function run in the service that it names: `#[rpc(run_as = "authsvc")]`, or with `, idempotent` if it may be called
/// again when nobody knows whether it ran. It takes owned values, and returns a `Result` whose error is
/// `pysecure_rpc::Error`, or can be made from and into it. An `async fn` takes the crate's feature `tokio`.
#[proc_macro_attribute]
pub fn rpc(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    let mut service: Option<LitStr> = None;
    let mut idempotent = false;
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("run_as") {
            service = Some(meta.value()?.parse()?);
            Ok(())
        } else if meta.path.is_ident("idempotent") {
            idempotent = true;
            Ok(())
        } else {
            Err(meta.error("only `run_as` and `idempotent` are known"))
        }
    });
    parse_macro_input!(attributes with parser);
    expand(&function, service, idempotent)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

fn expand(function: &ItemFn, service: Option<LitStr>, idempotent: bool) -> syn::Result<proc_macro2::TokenStream> {
    let signature = &function.sig;
    let wrong = |what: &str| Err(syn::Error::new_spanned(signature, what));
    let Some(service) = service else {
        return wrong("say who runs it: #[rpc(run_as = \"service\")]");
    };
    if !signature.generics.params.is_empty() {
        return wrong("a generic function cannot be called from elsewhere; write out its types");
    }
    let ReturnType::Type(_, returns) = &signature.output else {
        return wrong("return a `pysecure_rpc::Result`, which can say that a call failed");
    };
    let parameters: syn::Result<(Vec<_>, Vec<_>)> = signature.inputs.iter().map(parameter).collect();
    let (names, kinds) = parameters?;
    let texts: Vec<String> = names.iter().map(|name| name.unraw().to_string()).collect();
    let values: Vec<_> = (0..names.len()).map(|at| format_ident!("__value_{at}")).collect();
    let name = signature.ident.to_string();
    let (attributes, visibility, block, inputs) = (&function.attrs, &function.vis, &function.block, &signature.inputs);
    let (ident, asyncness, doc) = (&signature.ident, &signature.asyncness, documentation(attributes));
    let output = quote!(<#returns as ::pysecure_rpc::Outcome>);
    let returned = quote!(<#output::Value as ::pysecure_rpc::Returned>);
    let count = names.len();
    let (here, run) = match asyncness {
        None => (quote!(__body(#(#names),*)), quote!(__body(#(#values),*))),
        Some(_) => (
            quote!(__body(#(#names),*).await),
            quote!(__reply.run(__body(#(#values),*))?),
        ),
    };
    let call = quote! {
        ::pysecure_rpc::private::call(&__CALLED, &__KNOWN, &|__writer| {
            __writer.array(#count);
            #(::pysecure_rpc::private::argument(__writer, &#names)?;)*
            __writer.map(0);
            ::core::result::Result::Ok(())
        })
    };
    let called = match asyncness {
        None => call,
        Some(_) => quote!(::pysecure_rpc::private::elsewhere(move || #call).await),
    };
    Ok(quote! {
        #(#attributes)*
        #visibility #asyncness fn #ident(#inputs) -> #returns {
            #asyncness fn __body(#inputs) -> #returns #block
            fn __serve(
                mut __arguments: ::pysecure_rpc::Arguments,
                __reply: &mut ::pysecure_rpc::Reply<'_>,
            ) -> ::core::result::Result<(), ::pysecure_rpc::Error> {
                #(let #values: #kinds = __arguments.take(#texts)?;)*
                __arguments.finish()?;
                let __result = #output::into_call(#run)?;
                #returned::serve(__result, __reply)
            }
            const __FUNCTION: ::pysecure_rpc::Function = ::pysecure_rpc::Function {
                service: #service,
                name: #name,
                doc: #doc,
                idempotent: #idempotent,
                parameters: &[#(::pysecure_rpc::Parameter {
                    name: #texts,
                    text: <#kinds as ::pysecure_rpc::Typed>::text,
                }),*],
                returns: #returned::text,
                stream: #returned::STREAM,
                serve: __serve,
            };
            ::pysecure_rpc::private::inventory::submit! { __FUNCTION }
            if ::pysecure_rpc::runs_here(#service) {
                return #here;
            }
            static __CALLED: ::pysecure_rpc::Function = __FUNCTION;
            static __KNOWN: ::std::sync::OnceLock<(u64, ::std::string::String)> = ::std::sync::OnceLock::new();
            #output::from_call(#called)
        }
    })
}

/// The name and type of a function's parameter.
fn parameter(input: &FnArg) -> syn::Result<(&syn::Ident, &syn::Type)> {
    let FnArg::Typed(input) = input else {
        let what = "a method cannot be called from elsewhere";
        return Err(syn::Error::new_spanned(input, what));
    };
    let Pat::Ident(name) = &*input.pat else {
        return Err(syn::Error::new_spanned(&input.pat, "give the parameter a name"));
    };
    if matches!(&*input.ty, syn::Type::Reference(_)) {
        let what = "take an owned value, such as `String`";
        return Err(syn::Error::new_spanned(&input.ty, what));
    }
    Ok((&name.ident, &input.ty))
}

fn documentation(attributes: &[syn::Attribute]) -> String {
    let lines = attributes.iter().filter_map(|a| match &a.meta {
        syn::Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            syn::Expr::Lit(syn::ExprLit {
                lit: syn::Lit::Str(line),
                ..
            }) => Some(line.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The type's text in signatures: a struct's fields, or an enumeration's name.
#[proc_macro_derive(Typed)]
pub fn typed(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    let ident = &item.ident;
    let name = ident.to_string();
    let text = match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => {
                let fields = fields.named.iter().map(|field| {
                    let name = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                    let (kind, end) = (&field.ty, if may_be_left_out(field) { "=" } else { "" });
                    quote! { ::std::format!("{}:{}{}", #name, <#kind as ::pysecure_rpc::Typed>::text(within), #end) }
                });
                quote! {
                    if within.contains(&#name) {
                        return ::std::format!("@{}", #name);
                    }
                    within.push(#name);
                    let fields: ::std::vec::Vec<::std::string::String> = ::std::vec![#(#fields),*];
                    within.pop();
                    ::std::format!("{{{}}}", fields.join(","))
                }
            }
            _ => return refuse(&item, "a struct needs named fields to stand in a signature"),
        },
        Data::Enum(data) if data.variants.iter().all(|v| matches!(v.fields, Fields::Unit)) => {
            quote! { ::std::format!("enum[{}]", #name) }
        }
        _ => {
            return refuse(
                &item,
                "only structs, and enumerations without data, have a text in signatures",
            );
        }
    };
    quote! {
        impl ::pysecure_rpc::Typed for #ident {
            fn text(within: &mut ::std::vec::Vec<&'static str>) -> ::std::string::String {
                #text
            }
        }
    }
    .into()
}

fn refuse(item: &DeriveInput, what: &str) -> TokenStream {
    syn::Error::new_spanned(item, what).into_compile_error().into()
}

/// `#[serde(default)]`.
fn may_be_left_out(field: &syn::Field) -> bool {
    field.attrs.iter().any(|a| {
        let mut found = false;
        if a.path().is_ident("serde") {
            let _ = a.parse_nested_meta(|meta| {
                found |= meta.path.is_ident("default");
                if meta.input.peek(syn::Token![=]) {
                    meta.value()?.parse::<syn::Expr>()?;
                }
                Ok(())
            });
        }
        found
    })
}
