import { isDeepStrictEqual } from 'node:util'
import {
  isMap,
  isNode,
  isScalar,
  parseDocument,
  Scalar,
  YAMLMap,
  YAMLSeq,
  type Document,
} from 'yaml'
import { ClientFileError } from './file-error.ts'

/** What k3s's `registries.yaml` says. [k3s docs, Private Registry Configuration] */
export interface K3sRegistries {
  /** For each registry what is tried for its images, in this order; its own place comes last by itself. */
  readonly mirrors: readonly { readonly registry: string; readonly endpoints: readonly string[] }[]
  readonly configs: readonly K3sHost[]
}

/** How to speak to a `host:port`. */
interface K3sHost {
  readonly host: string
  /** PEM file. */
  readonly ca?: string | undefined
  readonly skipVerify?: boolean
  readonly logIn?: { readonly username: string; readonly password: string } | undefined
}

/**
 * The text with the registries in it: their endpoints in the place of those that were there. A log-in or a CA of a host
 * stays unless another is given; that its certificate is not checked stays only if it is said again.
 * @param existing the file as it is; empty when there is none
 * @returns the same text when it says the same already
 * @throws ClientFileError when the file cannot be read
 */
export function mergeRegistriesYaml(existing: string, { mirrors, configs }: K3sRegistries): string {
  const document = parse(existing)
  const before: unknown = document.toJS()
  const root = rootOf(document)
  for (const { registry, endpoints } of mirrors) {
    const mirror = mapIn(mapIn(root, 'mirrors'), registry)
    setValue(mirror, 'endpoint', endpoints)
  }
  for (const config of configs) setConfig(root, config)
  if (existing.trim() !== '' && isDeepStrictEqual(document.toJS(), before)) return existing
  return document.toString({ lineWidth: 0, flowCollectionPadding: false })
}

function parse(text: string): Document {
  const document = parseDocument(text, { prettyErrors: false, keepSourceTokens: false })
  const [error] = document.errors
  if (error !== undefined) {
    const line = text.slice(0, error.pos[0]).split('\n').length
    throw new ClientFileError(`line ${line} is not YAML: ${error.message}`, { cause: error })
  }
  return document
}

function rootOf(document: Document): YAMLMap {
  const { contents } = document
  if (isMap(contents)) return contents
  if (contents !== null && !isNull(contents)) throw new ClientFileError('it is not a YAML mapping')
  const root = new YAMLMap(document.schema)
  document.contents = root
  return root
}

function setConfig(root: YAMLMap, { host, ca, skipVerify = false, logIn }: K3sHost): void {
  const there = findMap(findMap(root, 'configs'), host)
  if (skipVerify) setValue(tlsOf(root, host), 'insecure_skip_verify', true)
  else findMap(there, 'tls')?.delete('insecure_skip_verify')
  if (ca !== undefined) setValue(tlsOf(root, host), 'ca_file', ca)
  if (logIn === undefined) return
  const auth = mapIn(mapIn(mapIn(root, 'configs'), host), 'auth')
  setValue(auth, 'username', logIn.username)
  setValue(auth, 'password', logIn.password)
}

function tlsOf(root: YAMLMap, host: string): YAMLMap {
  return mapIn(mapIn(mapIn(root, 'configs'), host), 'tls')
}

const k3sWords = new Set(['mirrors', 'configs', 'tls', 'auth'])

/** The mapping of a name, made if there is none. */
function mapIn(parent: YAMLMap, name: string): YAMLMap {
  const there = findMap(parent, name)
  if (there !== undefined) return there
  const map = new YAMLMap(parent.schema)
  parent.set(k3sWords.has(name) ? name : quote(name), map)
  return map
}

function findMap(parent: YAMLMap | undefined, name: string): YAMLMap | undefined {
  const there = parent?.get(name, true)
  if (there === undefined || isNull(there)) return undefined
  if (isMap(there)) return there
  throw new ClientFileError(`its ${name} is not a mapping with lines of its own`)
}

function isNull(node: unknown): boolean {
  return node === null || (isScalar(node) && node.value === null)
}

/** Sets what is not so already: what is, stays as it is written. */
function setValue(map: YAMLMap, name: string, value: string | true | readonly string[]): void {
  const before: unknown = map.get(name, true)
  if (isNode(before) && isDeepStrictEqual(before.toJSON(), value)) return
  const after = typeof value === 'object' ? listOf(value) : quote(value)
  if (isNode(before)) after.comment = before.comment ?? null
  map.set(name, after)
}

function listOf(values: readonly string[]): YAMLSeq {
  const list = new YAMLSeq()
  list.flow = true
  for (const value of values) list.add(quote(value))
  return list
}

/** In quotes a text is nothing else: no number, no date, no end of a line. */
function quote(value: string | true): Scalar {
  const scalar = new Scalar(value)
  if (value !== true) scalar.type = 'QUOTE_DOUBLE'
  return scalar
}
