import { isDeepStrictEqual } from 'node:util'
import { ClientFileError } from './file-error.ts'

export interface DockerDaemon {
  /** Tried for docker.io only, in this order. */
  readonly registryMirrors?: readonly string[]
  /** `host:port` of registries that may be spoken to in plain http or without a check of their certificate. */
  readonly insecureRegistries?: readonly string[]
}

/** The text of `/etc/docker/daemon.json`. [docker daemon reference] */
export function formatDaemonJson(daemon: DockerDaemon): string {
  return `${JSON.stringify(keysOf(daemon))}\n`
}

/**
 * The text with the mirrors in it, in the place of those that were there. Of the insecure registries those of others stay,
 * and a host that this is about is one only if it is said to be.
 * @param existing the file as it is; empty when there is none
 * @param about every `host:port` that this is about
 * @returns the same text when it says the same already
 * @throws ClientFileError when the file cannot be read
 */
export function mergeDaemonJson(
  existing: string,
  { registryMirrors, insecureRegistries = [] }: DockerDaemon,
  about: readonly string[],
): string {
  const before = parseSettings(existing)
  const there = insecureIn(before)
  const ofOthers = there.filter((host) => !about.includes(host))
  const kept = there.filter((host) => ofOthers.includes(host) || insecureRegistries.includes(host))
  const wanted = [...new Set([...kept, ...insecureRegistries])]
  const isMentioned = wanted.length > 0 || there.length > 0
  const after = {
    ...before,
    ...keysOf({
      ...(registryMirrors && { registryMirrors }),
      ...(isMentioned && { insecureRegistries: wanted }),
    }),
  }
  if (existing.trim() !== '' && isDeepStrictEqual(after, before)) return existing
  return `${JSON.stringify(after, undefined, indentOf(existing))}\n`
}

function keysOf({ registryMirrors, insecureRegistries }: DockerDaemon): object {
  return {
    ...(registryMirrors === undefined ? {} : { 'registry-mirrors': registryMirrors }),
    ...(insecureRegistries === undefined ? {} : { 'insecure-registries': insecureRegistries }),
  }
}

function parseSettings(text: string): object {
  if (text.trim() === '') return {}
  const settings = parseJson(text)
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) {
    throw new ClientFileError('it is not a JSON object')
  }
  return settings
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new ClientFileError(`it is not JSON: ${reason}`, { cause })
  }
}

function insecureIn(settings: object): readonly string[] {
  const list: unknown = Object.entries(settings).find(([key]) => key === 'insecure-registries')?.[1]
  if (list === undefined) return []
  if (Array.isArray(list) && list.every((each) => typeof each === 'string')) return list
  throw new ClientFileError('its insecure-registries are not a list of strings')
}

/** As the file has it; two spaces in a new one. */
function indentOf(text: string): string {
  return /^([ \t]+)"/m.exec(text)?.[1] ?? '  '
}
