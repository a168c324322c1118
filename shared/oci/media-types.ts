/** The media types that the registry reads; all others are opaque. [image-spec, media-types.md] */
export const mediaTypes = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
} as const

/** The types of document that a manifest PUT accepts. */
export type ManifestMediaType = (typeof mediaTypes)[keyof typeof mediaTypes]

const manifestTypes: ReadonlySet<string> = new Set(Object.values(mediaTypes))
const schema1Types: ReadonlySet<string> = new Set([
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
])
/** Layers that clients may not have the right to push. [image-spec, layer.md#non-distributable-layers] */
const foreignLayer = /nondistributable|rootfs\.foreign/

/** The media type without parameters, in lower case; '' when the header is absent. */
export function essenceOf(contentType: string | undefined): string {
  return (contentType ?? '').split(';', 1).join('').trim().toLowerCase()
}

export function isManifestMediaType(type: string): type is ManifestMediaType {
  return manifestTypes.has(type)
}

/** Whether the type is an index: a document of manifests. */
export function isIndexMediaType(type: string): boolean {
  return type === mediaTypes.ociIndex || type === mediaTypes.dockerIndex
}

/** Whether the type is Docker's schema 1, which is refused by name. */
export function isSchema1MediaType(type: string): boolean {
  return schema1Types.has(type)
}

/** Whether a layer of this type may be missing from the registry. */
export function isForeignLayerMediaType(type: string): boolean {
  return foreignLayer.test(type)
}

/**
 * Whether a tag that names an index may be served to a client that sent these `Accept` values: only a
 * client that names manifest types and no index type at all cannot read one. Order and q are ignored,
 * since docker sends its list in random order.
 */
export function acceptsIndex(accept: string | undefined): boolean {
  if (accept === undefined || accept.trim() === '') return true
  const types = accept.split(',').map(essenceOf)
  if (types.some((type) => type === '*/*' || type === 'application/*' || isIndexMediaType(type)))
    return true
  return !types.some((type) => isManifestMediaType(type) || isSchema1MediaType(type))
}
