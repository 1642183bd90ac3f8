//! Evaluates a story's Jsonnet to a JSON value, errors as values.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rsjsonnet_lang::arena::Arena;
use rsjsonnet_lang::interner::InternedStr;
use rsjsonnet_lang::program::{
    Callbacks, EvalError, EvalStackTraceItem, ImportError, NativeError, Program, Thunk,
    Value as JsonnetValue,
};
use rsjsonnet_lang::span::{SourceId, SpanContext, SpanId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Position, StoryError, StoryErrors, Text};
use super::folder::{Folder, Source};
use super::locate::Locator;
use super::{DEFAULT, DEFAULT_NAME, Story, jsonnet_text};

/// The longest JSON text that a story may evaluate to, in bytes.
pub const MAX_VALUE: usize = 256 * 1024;

/// A story's value and the files that it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The value; [`Story::from_value`] takes it.
    pub value: Value,
    /// The story's file first, then what it imported, without the built-in story. Reload when one changes.
    pub files: Vec<PathBuf>,
}

/// Evaluates and checks a user's story.
///
/// This may run for long and take much memory: call it in a confined process. Nothing outside the folder of `path`
/// is read.
///
/// # Errors
///
/// Everything that is wrong with the story, with positions; the first error only if the Jsonnet itself is wrong.
pub fn evaluate(path: &Path) -> Result<Evaluated, StoryErrors> {
    let (folder, main) = Folder::open(path).map_err(|what| {
        StoryErrors::one(StoryError::in_file(path.display().to_string(), what, None))
    })?;
    let arena = Arena::new();
    let mut files = Files::new(Some(folder));
    let value = run(&arena, &mut files, main)?;
    if let Err(faults) = Story::check(&value) {
        let locator = Locator::new(&files.sources, &files.imports);
        let mut errors: Vec<StoryError> = faults
            .into_iter()
            .map(|fault| locator.place(fault))
            .collect();
        errors.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
        StoryErrors::check(errors)?;
    }
    let files = files
        .sources
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path != Path::new(DEFAULT_NAME))
        .collect();
    Ok(Evaluated { value, files })
}

/// Evaluates the built-in story, which is trusted and imports nothing.
pub(super) fn evaluate_embedded() -> Result<Value, StoryErrors> {
    let arena = Arena::new();
    run(&arena, &mut Files::new(None), embedded())
}

fn embedded() -> Source {
    Source {
        path: PathBuf::from(DEFAULT_NAME),
        folder: PathBuf::new(),
        shown: DEFAULT_NAME.to_owned(),
        text: DEFAULT.as_bytes().to_vec(),
    }
}

/// The files that an evaluation has read so far, and how to read more.
struct Files<'p> {
    folder: Option<Folder>,
    sources: Vec<Source>,
    /// Which source the evaluator means.
    indices: HashMap<SourceId, usize>,
    /// What an `import` in a source leads to.
    imports: HashMap<(usize, String), usize>,
    /// One thunk for each file, so that a file that imports itself is a recursion the evaluator notices.
    thunks: HashMap<PathBuf, (usize, Thunk<'p>)>,
    /// Why the last import failed: the evaluator's own error can't carry it.
    failure: Option<StoryErrors>,
}

fn run<'p>(arena: &'p Arena, files: &mut Files<'p>, main: Source) -> Result<Value, StoryErrors> {
    let mut program = Program::new(arena);
    let shown = main.shown.clone();
    let (_, thunk) = files.load(&mut program, main)?;
    let value = match program.eval_value(&thunk, files) {
        Ok(value) => value,
        Err(error) => return Err(files.eval_error(&program, &error)),
    };
    let text = match program.manifest_json(&value, false) {
        Ok(text) => text,
        Err(error) => return Err(files.eval_error(&program, &error)),
    };
    let refuse = |what| Err(StoryErrors::one(StoryError::in_file(&shown, what, None)));
    if text.len() > MAX_VALUE {
        return refuse(Text::new(
            format!("evaluates to more than {MAX_VALUE} bytes of JSON"),
            format!("評価結果の JSON が {MAX_VALUE} バイトを超えます"),
        ));
    }
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        // The evaluator wrote well-formed JSON, so what is left is the reader's limit of 128 levels.
        Err(error) => refuse(Text::new(
            format!("evaluates to a value nested too deeply: {error}"),
            format!("評価結果の入れ子が深すぎます: {error}"),
        )),
    }
}

impl<'p> Files<'p> {
    fn new(folder: Option<Folder>) -> Self {
        Self {
            folder,
            sources: Vec::new(),
            indices: HashMap::new(),
            imports: HashMap::new(),
            thunks: HashMap::new(),
            failure: None,
        }
    }

    /// Parses a source.
    fn load(
        &mut self,
        program: &mut Program<'p>,
        source: Source,
    ) -> Result<(usize, Thunk<'p>), StoryErrors> {
        let (context, id) = program
            .span_manager_mut()
            .insert_source_context(source.text.len());
        let index = self.sources.len();
        self.indices.insert(id, index);
        let loaded = program.load_source(context, &source.text, true, &source.shown);
        let path = source.path.clone();
        self.sources.push(source);
        match loaded {
            Ok(thunk) => {
                self.thunks.insert(path, (index, thunk.clone()));
                Ok((index, thunk))
            }
            Err(error) => {
                let (span, what) = jsonnet_text::of_load_error(&error);
                Err(StoryErrors::one(self.error_at(program, Some(span), what)))
            }
        }
    }

    /// The source and the byte offset at which a span begins; `None` inside the standard library.
    fn place(&self, program: &Program<'p>, span: SpanId) -> Option<(usize, usize)> {
        let (context, start, _) = program.span_manager().get_span(span);
        let SpanContext::Source(id) = program.span_manager().get_context(context);
        self.indices.get(id).map(|index| (*index, start))
    }

    fn error_at(&self, program: &Program<'p>, span: Option<SpanId>, what: Text) -> StoryError {
        let place = span.and_then(|span| self.place(program, span));
        let source = place.and_then(|(index, start)| Some((self.sources.get(index)?, start)));
        let file = source.map(|(source, _)| source).or(self.sources.first());
        StoryError {
            file: file.map_or_else(String::new, |source| source.shown.clone()),
            at: source.map(|(source, start)| Position::of(&source.text, start)),
            what,
            hint: None,
        }
    }

    fn eval_error(&mut self, program: &Program<'p>, error: &EvalError) -> StoryErrors {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        let (own, what) = jsonnet_text::of_eval_error(&error.kind);
        // The innermost place in the user's own files; the standard library's means nothing to them.
        let spans = own
            .into_iter()
            .chain(error.stack_trace.iter().rev().filter_map(span_of));
        let span = spans
            .into_iter()
            .find(|span| self.place(program, *span).is_some());
        StoryErrors::one(self.error_at(program, span, what))
    }

    fn fetch(
        &mut self,
        program: &Program<'p>,
        from: SpanId,
        path: &str,
    ) -> Result<Source, ImportError> {
        let importer = self
            .place(program, from)
            .and_then(|(index, _)| self.sources.get(index));
        let read = if path == DEFAULT_NAME {
            Ok(embedded())
        } else {
            match (&self.folder, importer) {
                (Some(folder), Some(importer)) if importer.path != Path::new(DEFAULT_NAME) => {
                    folder.read(&importer.folder, path)
                }
                _ => Err(Text::new(
                    "there is no folder to import from",
                    "import できるフォルダがありません",
                )),
            }
        };
        read.map_err(|why| {
            let shown: String = path.chars().take(80).collect();
            let what = Text::new(
                format!("import '{shown}': {}", why.en),
                format!("import '{shown}': {}", why.ja),
            );
            self.failure = Some(StoryErrors::one(self.error_at(program, Some(from), what)));
            ImportError
        })
    }
}

impl<'p> Callbacks<'p> for Files<'p> {
    fn import(
        &mut self,
        program: &mut Program<'p>,
        from: SpanId,
        path: &str,
    ) -> Result<Thunk<'p>, ImportError> {
        let source = self.fetch(program, from, path)?;
        let (index, thunk) = match self.thunks.get(&source.path) {
            Some(known) => known.clone(),
            None => self.load(program, source).map_err(|error| {
                self.failure = Some(error);
                ImportError
            })?,
        };
        if let Some((importer, _)) = self.place(program, from) {
            self.imports.insert((importer, path.to_owned()), index);
        }
        Ok(thunk)
    }

    fn import_str(
        &mut self,
        program: &mut Program<'p>,
        from: SpanId,
        path: &str,
    ) -> Result<String, ImportError> {
        let source = self.fetch(program, from, path)?;
        String::from_utf8(source.text).map_err(|_| {
            let what = Text::new(
                format!("importstr '{path}': not UTF-8"),
                format!("importstr '{path}': UTF-8 ではありません"),
            );
            self.failure = Some(StoryErrors::one(self.error_at(program, Some(from), what)));
            ImportError
        })
    }

    fn import_bin(
        &mut self,
        program: &mut Program<'p>,
        from: SpanId,
        path: &str,
    ) -> Result<Vec<u8>, ImportError> {
        Ok(self.fetch(program, from, path)?.text)
    }

    fn trace(&mut self, _: &mut Program<'p>, _: &str, _: &[EvalStackTraceItem]) {}

    fn native_call(
        &mut self,
        _: &mut Program<'p>,
        _: InternedStr<'p>,
        _: &[JsonnetValue<'p>],
    ) -> Result<JsonnetValue<'p>, NativeError> {
        // No native function is registered.
        Err(NativeError)
    }
}

fn span_of(item: &EvalStackTraceItem) -> Option<SpanId> {
    match item {
        EvalStackTraceItem::Expr { span }
        | EvalStackTraceItem::Variable { span, .. }
        | EvalStackTraceItem::Import { span } => Some(*span),
        EvalStackTraceItem::Call { span, .. }
        | EvalStackTraceItem::ArrayItem { span, .. }
        | EvalStackTraceItem::ObjectField { span, .. } => *span,
        EvalStackTraceItem::CompareArrayItem { .. }
        | EvalStackTraceItem::CompareObjectField { .. }
        | EvalStackTraceItem::ManifestArrayItem { .. }
        | EvalStackTraceItem::ManifestObjectField { .. } => None,
    }
}
