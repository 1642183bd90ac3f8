//! Finds the place in the user's text that set a value.
//!
//! Jsonnet values do not remember where they come from. A story's structure is nearly always written out, though, so the
//! syntax tree is walked along the value's path the way Jsonnet merges: the right side of `+` first, through imports,
//! `local`s and parentheses. What functions or comprehensions computed is placed at the deepest member that is written
//! out.

use std::collections::HashMap;

use rsjsonnet_lang::arena::Arena;
use rsjsonnet_lang::ast::{BinaryOp, Bind, Expr, ExprKind, Field, FieldName, Member, ObjInside};
use rsjsonnet_lang::interner::StrInterner;
use rsjsonnet_lang::lexer::Lexer;
use rsjsonnet_lang::parser::Parser;
use rsjsonnet_lang::span::{SpanId, SpanManager};

use super::error::{Fault, Position, StoryError};
use super::folder::Source;

/// How deep the walk goes before it gives up; the tree is as deep as the user likes.
const MAX_DEPTH: u32 = 64;

/// The files of an evaluation.
pub(super) struct Locator<'a> {
    sources: &'a [Source],
    imports: &'a HashMap<(usize, String), usize>,
}

impl<'a> Locator<'a> {
    pub(super) fn new(sources: &'a [Source], imports: &'a HashMap<(usize, String), usize>) -> Self {
        Self { sources, imports }
    }

    /// Turns a fault into an error with the place that set the value.
    pub(super) fn place(&self, fault: Fault) -> StoryError {
        let hit = self.find(&fault);
        let source = hit.as_ref().and_then(|hit| self.sources.get(hit.file));
        let source_or_main = source.or(self.sources.first());
        let offset = hit.as_ref().map_or(0, |hit| hit.offset);
        StoryError {
            file: source_or_main.map_or_else(String::new, |source| source.shown.clone()),
            at: source.map(|source| Position::of(&source.text, offset)),
            what: fault.what,
            hint: fault.hint,
        }
    }

    fn find(&self, fault: &Fault) -> Option<Hit> {
        let (arena, tree_arena) = (Arena::new(), Arena::new());
        let names = StrInterner::new();
        let mut spans = SpanManager::new();
        let mut trees = Vec::with_capacity(self.sources.len());
        for source in self.sources {
            let (context, _) = spans.insert_source_context(source.text.len());
            let lexer = Lexer::new(
                &arena,
                &tree_arena,
                &names,
                &mut spans,
                context,
                &source.text,
            );
            // Every source has been parsed once, so this does not fail.
            let tokens = lexer.lex_to_eof(false).ok()?;
            let parser = Parser::new(&arena, &tree_arena, &names, &mut spans, tokens);
            trees.push(parser.parse_root_expr().ok()?);
        }
        let walk = Walk {
            trees: &trees,
            imports: self.imports,
            spans: &spans,
            on_key: fault.on_key,
        };
        let path: Vec<&str> = fault.path.iter().map(String::as_str).collect();
        let root = trees.first()?;
        if path.is_empty() {
            return Some(walk.hit(0, root.span, 0));
        }
        walk.find(0, root, None, &path, MAX_DEPTH)
    }
}

/// A place, and how much of the path leads to it.
#[derive(Clone, Debug)]
struct Hit {
    file: usize,
    offset: usize,
    depth: usize,
    /// The value here hides what the left side of a `+` says.
    final_word: bool,
}

/// The `local`s in sight.
#[derive(Clone, Copy)]
struct Scope<'s, 'p, 'ast> {
    binds: &'ast [Bind<'p, 'ast>],
    outer: Option<&'s Self>,
}

struct Walk<'w, 'p, 'ast> {
    trees: &'ast [Expr<'p, 'ast>],
    imports: &'w HashMap<(usize, String), usize>,
    spans: &'w SpanManager,
    on_key: bool,
}

impl<'ast> Walk<'_, '_, 'ast> {
    fn hit(&self, file: usize, span: SpanId, depth: usize) -> Hit {
        let (_, offset, _) = self.spans.get_span(span);
        Hit {
            file,
            offset,
            depth,
            final_word: true,
        }
    }
}

impl<'p, 'ast> Walk<'_, 'p, 'ast> {
    /// The deepest place along `path` inside the value of `expr`, a part of `file`.
    fn find(
        &self,
        file: usize,
        expr: &'ast Expr<'p, 'ast>,
        scope: Option<&Scope<'_, 'p, 'ast>>,
        path: &[&str],
        left: u32,
    ) -> Option<Hit> {
        let (first, rest) = path.split_first()?;
        let left = left.checked_sub(1)?;
        match expr.kind {
            ExprKind::Paren(inner) | ExprKind::Assert(_, inner) => {
                self.find(file, inner, scope, path, left)
            }
            ExprKind::Local(binds, body) => {
                let scope = Scope {
                    binds,
                    outer: scope,
                };
                self.find(file, body, Some(&scope), path, left)
            }
            ExprKind::Ident(ident) => {
                let mut at = scope;
                while let Some(scope) = at {
                    if let Some(bind) = scope
                        .binds
                        .iter()
                        .find(|bind| bind.name.value == ident.value)
                    {
                        // The bound value sees the same `local`s.
                        return bind
                            .params
                            .is_none()
                            .then(|| self.find(file, &bind.value, Some(scope), path, left))?;
                    }
                    at = scope.outer;
                }
                None
            }
            ExprKind::Import(name) => {
                let ExprKind::String(name) = name.kind else {
                    return None;
                };
                let target = *self.imports.get(&(file, name.to_owned()))?;
                self.find(target, self.trees.get(target)?, None, path, left)
            }
            ExprKind::Field(object, name) => {
                let mut longer = vec![name.value.value()];
                longer.extend_from_slice(path);
                let hit = self.find(file, object, scope, &longer, left)?;
                Some(Hit {
                    depth: hit.depth.checked_sub(1).filter(|depth| *depth > 0)?,
                    ..hit
                })
            }
            ExprKind::Binary(left_side, BinaryOp::Add, right_side) => {
                let right = self.find(file, right_side, scope, path, left);
                self.better(right, path, || {
                    self.find(file, left_side, scope, path, left)
                })
            }
            ExprKind::ObjExt(left_side, ObjInside::Members(members), _) => {
                let right = self.find_member(file, members, scope, (first, rest), left);
                self.better(right, path, || {
                    self.find(file, left_side, scope, path, left)
                })
            }
            ExprKind::If(_, yes, no) => {
                let yes = self.find(file, yes, scope, path, left);
                let no = no.and_then(|no| self.find(file, no, scope, path, left));
                // Which branch was taken isn't known; a member that only one of them writes is.
                match (yes, no) {
                    (Some(hit), None) | (None, Some(hit)) => Some(hit),
                    _ => None,
                }
            }
            ExprKind::Object(ObjInside::Members(members)) => {
                self.find_member(file, members, scope, (first, rest), left)
            }
            ExprKind::Array(items) => {
                let item = items.get(first.parse::<usize>().ok()?)?;
                Some(self.hit(file, item.span, 1))
            }
            _ => None,
        }
    }

    /// Of what the right side of a `+` says and what the left one does, the place that counts.
    fn better(
        &self,
        right: Option<Hit>,
        path: &[&str],
        left: impl FnOnce() -> Option<Hit>,
    ) -> Option<Hit> {
        match right {
            Some(hit) if hit.final_word || hit.depth == path.len() => Some(hit),
            Some(hit) => match left() {
                Some(other) if other.depth > hit.depth => Some(other),
                _ => Some(hit),
            },
            None => left(),
        }
    }

    fn find_member(
        &self,
        file: usize,
        members: &'ast [Member<'p, 'ast>],
        scope: Option<&Scope<'_, 'p, 'ast>>,
        (first, rest): (&str, &[&str]),
        left: u32,
    ) -> Option<Hit> {
        members.iter().find_map(|member| {
            let Member::Field(Field::Value(name, plus, _, value)) = member else {
                return None;
            };
            let (text, span) = match name {
                FieldName::Ident(ident) => (ident.value.value(), ident.span),
                FieldName::String(text, span) => (text.value(), *span),
                FieldName::Expr(expr, span) => match expr.kind {
                    ExprKind::String(text) => (text, *span),
                    _ => return None,
                },
            };
            if text != first {
                return None;
            }
            let deeper = self.find(file, value, scope, rest, left);
            let found = match deeper {
                Some(hit) => Hit {
                    depth: hit.depth + 1,
                    ..hit
                },
                None if rest.is_empty() && !self.on_key && is_literal(value) => {
                    self.hit(file, value.span, 1)
                }
                None => self.hit(file, span, 1),
            };
            Some(Hit {
                final_word: !plus,
                ..found
            })
        })
    }
}

fn is_literal(expr: &Expr<'_, '_>) -> bool {
    matches!(
        expr.kind,
        ExprKind::Null
            | ExprKind::Bool(_)
            | ExprKind::String(_)
            | ExprKind::TextBlock(_)
            | ExprKind::Number(_)
            | ExprKind::Unary(..)
            | ExprKind::Array(_)
    )
}
