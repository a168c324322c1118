import type { Descriptor } from '../oci/manifest.ts'

/**
 * Whether a child of an index is of one of these platforms (`os/architecture[/variant]`; none: all). One without a
 * platform, or of none that anybody runs (attestations), comes along.
 */
export function isOnPlatform({ platform }: Descriptor, platforms: readonly string[]): boolean {
  if (platforms.length === 0 || platform === undefined || platform.os === 'unknown') return true
  const { os, architecture, variant } = platform
  const name = `${os}/${architecture}`
  return platforms.includes(name) || platforms.includes(`${name}/${variant ?? ''}`)
}
