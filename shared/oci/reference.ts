import { isDigest, type Digest } from './digest.ts'
import { OciError } from './errors.ts'

declare const repositoryBrand: unique symbol
declare const tagBrand: unique symbol

/** A validated repository name, e.g. `library/app`. [distribution-spec, Pulling manifests] */
export type RepositoryName = string & { readonly [repositoryBrand]: true }
/** A validated tag. */
export type Tag = string & { readonly [tagBrand]: true }

/** What follows `/manifests/`. */
export type Reference =
  { readonly kind: 'tag'; readonly tag: Tag } | { readonly kind: 'digest'; readonly digest: Digest }

const component = '[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*'
const repositoryGrammar = new RegExp(`^${component}(?:/${component})*$`)
const tagGrammar = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/
/** Clients limit host and name together to 255; the host's share is left to them. */
const repositoryMaxLength = 255

/** Whether the text is a repository name. The length is checked first: names become path parts and keys. */
export function isRepositoryName(text: string): text is RepositoryName {
  return text.length <= repositoryMaxLength && repositoryGrammar.test(text)
}

/** @throws OciError NAME_INVALID */
export function parseRepositoryName(text: string): RepositoryName {
  if (isRepositoryName(text)) return text
  throw new OciError(
    'NAME_INVALID',
    'a repository name is lower-case letters, digits and the separators . _ __ - in components divided by /, at most 255 characters',
    { detail: { name: text.slice(0, repositoryMaxLength) } },
  )
}

/** Whether the text is a tag. */
export function isTag(text: string): text is Tag {
  return text.length <= 128 && tagGrammar.test(text)
}

/**
 * Reads a manifest reference. What holds a colon is meant as a digest, since no tag can hold one.
 * @returns undefined when it is neither; the caller decides between 404 (GET) and 400 (PUT)
 */
export function parseReference(text: string): Reference | undefined {
  if (isDigest(text)) return { kind: 'digest', digest: text }
  if (isTag(text)) return { kind: 'tag', tag: text }
  return undefined
}

/** The reference as it stands in a URL. */
export function formatReference(reference: Reference): string {
  return reference.kind === 'tag' ? reference.tag : reference.digest
}

/** The first component: in a primary, the project's name. */
export function projectOf(repository: RepositoryName): string {
  const slash = repository.indexOf('/')
  return slash < 0 ? repository : repository.slice(0, slash)
}
