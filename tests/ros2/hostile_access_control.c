/* DDS Security's access control with its own checks switched off: what a program may load that has keys, but does not
   keep to its permissions. Only the other side can then refuse it. REAL is the path of the plugin that it stands for. */
#include <dlfcn.h>
#include <stddef.h>

#include "dds/security/dds_security_api.h"

static DDS_Security_boolean topic(
  dds_security_access_control *self, const DDS_Security_PermissionsHandle permissions, const DDS_Security_DomainId domain,
  const DDS_Security_char *name, const DDS_Security_Qos *qos, DDS_Security_SecurityException *error)
{
  (void) self; (void) permissions; (void) domain; (void) name; (void) qos; (void) error;
  return 1;
}

static DDS_Security_boolean writer(
  dds_security_access_control *self, const DDS_Security_PermissionsHandle permissions, const DDS_Security_DomainId domain,
  const DDS_Security_char *name, const DDS_Security_Qos *qos, const DDS_Security_PartitionQosPolicy *partition,
  const DDS_Security_DataTags *tags, DDS_Security_SecurityException *error)
{
  (void) self; (void) permissions; (void) domain; (void) name; (void) qos; (void) partition; (void) tags; (void) error;
  return 1;
}

static DDS_Security_boolean reader(
  dds_security_access_control *self, const DDS_Security_PermissionsHandle permissions, const DDS_Security_DomainId domain,
  const DDS_Security_char *name, const DDS_Security_Qos *qos, const DDS_Security_PartitionQosPolicy *partition,
  const DDS_Security_DataTags *tags, DDS_Security_SecurityException *error)
{
  (void) self; (void) permissions; (void) domain; (void) name; (void) qos; (void) partition; (void) tags; (void) error;
  return 1;
}

int init_access_control(const char *argument, void **context, struct ddsi_domaingv *gv)
{
  void *real = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
  int (*init)(const char *, void **, struct ddsi_domaingv *) = NULL;
  if (real != NULL)
    *(void **) &init = dlsym(real, "init_access_control");
  if (init == NULL || init(argument, context, gv) != 0)
    return -1;
  dds_security_access_control *plugin = *context;
  plugin->check_create_topic = topic;
  plugin->check_create_datawriter = writer;
  plugin->check_create_datareader = reader;
  return 0;
}

int finalize_access_control(void *context)
{
  void *real = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
  int (*end)(void *) = NULL;
  if (real != NULL)
    *(void **) &end = dlsym(real, "finalize_access_control");
  return end == NULL ? -1 : end(context);
}
