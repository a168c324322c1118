import type { Static, TArray, TBoolean, TInteger, TSchema, TString, TUnsafe } from 'typebox'
import { Type } from '../schema/type.ts'
import type { Bytes, BytesPerSecond, Milliseconds, Unit } from './units.ts'

/**
 * What the loader, the description and the reference read of an option's schema: the JSON Schema
 * keywords, and our own `unit`, `secret`, `path`, `existing` and `form`.
 */
export interface OptionSchema extends TSchema {
  readonly type?: string
  readonly enum?: readonly string[]
  readonly properties?: Readonly<Record<string, OptionSchema>>
  readonly required?: readonly string[]
  readonly items?: OptionSchema
  readonly minLength?: number
  readonly pattern?: string
  readonly minimum?: number
  readonly maximum?: number
  readonly default?: unknown
  readonly description?: string
  readonly unit?: Unit
  /** Never printed. */
  readonly secret?: boolean
  /** A file or folder: relative ones are resolved when the configuration is loaded. */
  readonly path?: boolean
  /** The file must be there when the program starts. */
  readonly existing?: boolean
  /** What the text must look like, said to people instead of the pattern. */
  readonly form?: string
}

interface Described {
  readonly description: string
}

interface TextOptions extends Described {
  readonly default?: string
  readonly pattern?: string
  /** Said in the error instead of the pattern. */
  readonly form?: string
  readonly secret?: true
}

/**
 * A schema as typebox's builders make it, which are not loaded for it: with what checks values they are 680 modules, a
 * third of the time in which an edge or a command starts.
 */
function schemaOf<Schema extends TSchema>(keywords: object): Schema {
  return keywords as Schema
}

/** Text. */
export function text(options: TextOptions) {
  return schemaOf<TString>({ type: 'string', minLength: 1, ...options })
}

/** A file or folder; made absolute when loaded: against the configuration file's folder, else the working folder. */
export function path(options: Described & { readonly default?: string; readonly existing?: true }) {
  return schemaOf<TString>({ type: 'string', minLength: 1, path: true, ...options })
}

/** A whole number. */
export function count(
  options: Described & {
    readonly default?: number
    readonly minimum?: number
    readonly maximum?: number
  },
) {
  return schemaOf<TInteger>({ type: 'integer', minimum: 0, ...options })
}

/** A TCP port; 0 is any free one. */
export function port(options: Described & { readonly default?: number }) {
  return schemaOf<TInteger>({ type: 'integer', minimum: 0, maximum: 65535, ...options })
}

/** True or false. */
export function flag(options: Described & { readonly default?: boolean }) {
  return schemaOf<TBoolean>({ type: 'boolean', ...options })
}

/** One of a closed list of words. */
export function choice<const Values extends readonly string[]>(
  values: Values,
  options: Described & { readonly default?: Values[number] },
) {
  return schemaOf<TUnsafe<Values[number]>>({ type: 'string', enum: values, ...options })
}

interface UnitOptions extends Described {
  /** With its unit: `8MiB`, `30s`. */
  readonly default?: string
  /** In bytes, milliseconds or bytes per second. */
  readonly minimum?: number
  readonly maximum?: number
}

/** Bytes, written with a unit (`64MiB`). */
export function size(options: UnitOptions) {
  return schemaOf<TUnsafe<Bytes>>({ type: 'integer', unit: 'size', ...options })
}

/** Milliseconds, written with a unit (`30s`). */
export function duration(options: UnitOptions) {
  return schemaOf<TUnsafe<Milliseconds>>({ type: 'integer', unit: 'duration', ...options })
}

/** Bytes per second, written with a unit (`512B/s`). */
export function rate(options: UnitOptions) {
  return schemaOf<TUnsafe<BytesPerSecond>>({ type: 'integer', unit: 'rate', ...options })
}

/** A group of options; one that is left out takes its members' defaults. */
export function group<const Properties extends Record<string, TSchema>>(
  properties: Properties,
  options: { readonly description?: string } = {},
) {
  return Type.Object(properties, options)
}

/** A list. */
export function list<Item extends TSchema>(
  items: Item,
  options: Described & { readonly default?: readonly unknown[] },
) {
  return schemaOf<TArray<Item>>({ type: 'array', default: [], items, ...options })
}

/** A schema that these functions built, seen as what the loader reads of it. */
export function asOption(schema: TSchema): OptionSchema {
  return schema
}

/** An option that may be left out; it has no default. */
export function optional<Schema extends TSchema>(schema: Schema) {
  return Type.Optional(schema)
}

/** A loaded value: every level readonly, as the loader freezes it. */
export type Loaded<Schema extends TSchema> = DeepReadonly<Static<Schema>>

type DeepReadonly<Value> = Value extends readonly (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : Value extends object
    ? { readonly [Key in keyof Value]: DeepReadonly<Value[Key]> }
    : Value
